//! Opening a log: find its segments, follow the chain, tell a torn tail from damage, flush, and start afresh.

use std::collections::VecDeque;

use super::damage::FoundDamage;
use super::follow::{Replay, rebuild_header};
use super::marks::{FoundMarks, Marks, create_marks, find_marks};
use super::pace::Pace;
use super::reader::Reader;
use super::reclaim::Reclaim;
use super::resume::resume_last;
use super::scan::{Found, is_unreadable, perform, read_around};
use super::scrub::Scrub;
use super::settle::settle;
use super::space::{SEGMENTS_MIN, Segments, Spare, capacity, directory_bytes_max};
use super::tail::move_tail;
use super::taken::Taken;
use super::{Health, OpenError, Options, Recovered, Recovery, Stats, StreamSlot, Ticket, Wal};
use crate::disk::{Disk, DiskError, Done, FileId, Op, OpenMode};
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK, Directory, FORMAT_VERSION, FileName, HeaderBlock, Incarnation, Lsn,
    MARKS_FILE, PAYLOAD_MAX, RECORD_OVERHEAD_MAX, SegmentHeader, parse_file_name, unfinished_serial,
};
use crate::mutant;

/// Bytes of a segment without a header that are looked through for batches.
const UNUSED_BYTES: u64 = 64 << 10;
/// Largest budget that is taken by default.
const BUDGET_BYTES_MAX: u64 = 64 << 30;

/// What the directory holds.
pub(super) struct Listing {
    /// By incarnation, ascending.
    pub(super) segments: Vec<Found>,
    unfinished: Vec<String>,
    marks: FoundMarks,
}

pub(super) fn open<D: Disk>(
    mut disk: D,
    options: Options,
    now_nanos: u64,
    recovery: &mut dyn Recovery,
) -> Result<Wal<D>, OpenError> {
    let budget_bytes = check_options(&mut disk, &options)?;
    let mut listing = list(&mut disk)?;
    let log_id = check_identity(&listing, options.log_id, now_nanos)?;
    let mut replay = Replay::new();
    replay.follow(&mut disk, &listing.segments, &listing.marks, recovery)?;
    let judged = replay.taken.finish(recovery);
    let incarnation = listing.segments.last().map_or(Incarnation::NONE, |f| f.incarnation).next();
    let mut segments = Segments::new(&options, budget_bytes, incarnation);
    // From here on the directory is changed. What was read may have come from caches: it has to be on stable storage before
    // anybody acts on it, and writes of a dead process have to be over before their places are used again.
    if !mutant::RECOVERY_UNFLUSHED {
        settle(&mut disk, &listing, &replay)?;
    }
    segments.skip_serials(remove_unfinished(&mut disk, &listing.unfinished)?);
    create_marks(&mut disk, &mut listing.marks)?;
    retire(&mut replay, &listing, &mut segments);
    let durable_end = replay.chain.lsn;
    let (trimmed_at, _) = replay.taken.moves.counted(durable_end);
    let Taken {
        mut index, mut losses, moves, states, replaced, directory: last_directory, last_batch, ..
    } = replay.taken;
    let moved = moves.into_moved(&mut index);
    losses.judged = judged;
    let mut directory = Directory::new(directory_bytes_max(options.segment_bytes) as usize);
    let last_batch = last_batch.filter(|_| directory.take_over(last_directory));
    let mut wal = Wal {
        disk,
        log_id,
        index,
        losses,
        open: None,
        closed: VecDeque::new(),
        closed_bytes: 0,
        entry_room: 0,
        append_room: 0,
        vital_room: 0,
        next_lsn: durable_end,
        next_ticket: Ticket(1),
        flights: VecDeque::new(),
        flight_base: 0,
        batches_in_flight: 0,
        flight_bytes: 0,
        pace: Pace::new(now_nanos),
        retry_at: None,
        chain: replay.chain.crc.unwrap_or(0),
        directory,
        previous_batch: last_batch,
        states,
        replaced,
        copy_from: None,
        marks: Marks::new(&listing.marks, now_nanos),
        durable: Ticket(0),
        durable_end,
        segments,
        reclaim: Reclaim::new(trimmed_at, moved),
        reader: Reader::default(),
        scrub: Scrub::new(options.scrub_bytes_per_s, options.scrub_interval_s, now_nanos),
        damage: FoundDamage::default(),
        health: Health::Running,
        news: false,
        stats: Stats::default(),
        last_write_nanos: None,
        last_submit_nanos: 0,
        mean_write_nanos: 0,
        recovered: replay.recovered,
        completions: Vec::new(),
        others: VecDeque::new(),
        options,
    };
    wal.count_dead();
    start(&mut wal, &listing, now_nanos)?;
    wal.write_verdicts();
    wal.copy_states_from(StreamSlot(0));
    for damage in &wal.recovered.damage {
        tracing::error!(%damage, "acknowledged bytes are damaged");
    }
    if let Some((segment, offset)) = &wal.recovered.cut {
        tracing::info!(segment, offset, "the log ends here; what may lie behind was never acknowledged");
    }
    Ok(wal)
}

fn check_options<D: Disk>(disk: &mut D, options: &Options) -> Result<u64, OpenError> {
    let fail = |why: String| Err(OpenError::Options { why });
    let Options { segment_bytes, payload_bytes_max, .. } = *options;
    if !segment_bytes.is_multiple_of(BLOCK) || !(4 * BLOCK..=1 << 31).contains(&segment_bytes) {
        return fail(format!(
            "segment_bytes is {segment_bytes}: a multiple of 4096 from 16384 to 2^31 is needed"
        ));
    }
    let record = u64::from(payload_bytes_max)
        + directory_bytes_max(segment_bytes)
        + (BATCH_HEADER_BYTES + 2 * RECORD_OVERHEAD_MAX) as u64;
    if payload_bytes_max > PAYLOAD_MAX || record > capacity(segment_bytes) {
        return fail(format!(
            "payload_bytes_max is {payload_bytes_max}: a segment of {segment_bytes} bytes has no room for it"
        ));
    }
    if options.writes_in_flight == 0 || options.reads_in_flight == 0 || options.batch_bytes_max < BLOCK as u32
    {
        return fail(
            "writes_in_flight and reads_in_flight are at least 1, batch_bytes_max at least 4096".to_owned(),
        );
    }
    let budget = match options.budget_bytes {
        0 => (disk.total_bytes() / 10).min(BUDGET_BYTES_MAX),
        bytes => bytes,
    };
    if budget / segment_bytes < SEGMENTS_MIN {
        return fail(format!(
            "the budget of {budget} bytes holds fewer than {SEGMENTS_MIN} segments of {segment_bytes} bytes: \
             raise budget_bytes (0 takes a tenth of the file system) or lower segment_bytes"
        ));
    }
    Ok(budget)
}

fn list<D: Disk>(disk: &mut D) -> Result<Listing, OpenError> {
    let Ok(Done::Listed(names)) = perform(disk, Op::List)?.result else {
        unreachable!("a list answers with names")
    };
    let marked = names.iter().any(|(name, _)| name == MARKS_FILE);
    let marks = find_marks(disk, marked)?;
    let mut listing = Listing { segments: Vec::new(), unfinished: Vec::new(), marks };
    for (name, len) in names {
        match parse_file_name(&name) {
            None => {}
            Some(FileName::Unfinished) => listing.unfinished.push(name),
            Some(FileName::Segment(incarnation)) => {
                if len < BLOCK || len % BLOCK != 0 {
                    let why = format!("a segment of {len} bytes");
                    return Err(OpenError::ForeignFile { name, why });
                }
                let opened = perform(disk, Op::Open { name: name.clone(), mode: OpenMode::ReadWrite })?;
                let Ok(Done::Opened { file, len }) = opened.result else {
                    unreachable!("an open answers with a file")
                };
                let (head, unreadable) = read_head(disk, file)?;
                let mut found = Found { incarnation, file, bytes: len, head, rebuilt: None };
                found.rebuilt = rebuild(disk, &found)?;
                if let (Some(error), None) = (unreadable, &found.rebuilt)
                    && !reads_elsewhere(disk, &found)?
                {
                    // Nothing in the file is known: the device may be gone as a whole.
                    return Err(error.into());
                }
                if let (HeaderBlock::Foreign, None) = (&head, &found.rebuilt) {
                    return Err(OpenError::ForeignFile {
                        name,
                        why: "it does not begin like a segment".to_owned(),
                    });
                }
                if let HeaderBlock::Version(found) = head {
                    return Err(OpenError::Version { segment: name, found, supported: FORMAT_VERSION });
                }
                listing.segments.push(found);
            }
        }
    }
    listing.segments.sort_by_key(|f| f.incarnation);
    forget_copies(&mut listing.segments);
    Ok(listing)
}

/// A segment's first block, and why it cannot be read if that is so.
fn read_head<D: Disk>(disk: &mut D, file: FileId) -> Result<(HeaderBlock, Option<DiskError>), DiskError> {
    let buffer = disk.buffer(BLOCK as usize);
    match perform(disk, Op::Read { file, offset: 0, buffer, len: BLOCK as u32 }) {
        Ok(read) => {
            let Some(buffer) = read.buffer else { unreachable!("a read returns its buffer") };
            let head = SegmentHeader::decode(buffer.as_slice());
            disk.recycle(buffer);
            Ok((head, None))
        }
        Err(error) if error.is_unreadable() => {
            let block = read_around(disk, file, 0, BLOCK)?;
            if is_unreadable(&block) {
                return Ok((HeaderBlock::Damaged { stored: 0, computed: 0 }, Some(error)));
            }
            Ok((SegmentHeader::decode(&block), None))
        }
        Err(error) => Err(error),
    }
}

/// Whether the device reads anything behind the first block of a file. Then that block alone is bad; and if no batch of the segment is in
/// the file either, it was recycled, and the process ended before it wrote the new header. Whether something that was acknowledged should
/// be there tell the others, as with a header that is damaged.
fn reads_elsewhere<D: Disk>(disk: &mut D, found: &Found) -> Result<bool, DiskError> {
    let blocks = found.bytes / BLOCK;
    for block in
        [1, blocks / 2, blocks.saturating_sub(1)].into_iter().filter(|block| (1..blocks).contains(block))
    {
        if !is_unreadable(&read_around(disk, found.file, block * BLOCK, BLOCK)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The header of a segment in use that has lost its own: a damaged one is looked for in the whole file, one that was never
/// written, as far as can be told, only where a batch would be at once.
fn rebuild<D: Disk>(disk: &mut D, found: &Found) -> Result<Option<SegmentHeader>, DiskError> {
    match &found.head {
        HeaderBlock::Header(header) if header.incarnation == found.incarnation => Ok(None),
        HeaderBlock::Damaged { .. } | HeaderBlock::Foreign => rebuild_header(disk, found, found.bytes),
        HeaderBlock::Header(_) | HeaderBlock::Zeros => rebuild_header(disk, found, UNUSED_BYTES),
        HeaderBlock::Version(_) => Ok(None),
    }
}

/// Batches without a header may also be those of a last segment that was being moved when its process died: then the one that
/// has its header counts, and begins at the same position.
fn forget_copies(segments: &mut [Found]) {
    let mut highest: Option<Lsn> = None;
    for found in segments {
        let Some(start) = found.header().map(|h| h.start) else { continue };
        if found.rebuilt.is_some() && highest.is_some_and(|highest| highest >= start) {
            found.rebuilt = None;
        } else {
            highest = highest.max(Some(start));
        }
    }
}

/// The number of this log: all segments have the same, and the one that was asked for.
fn check_identity(listing: &Listing, wanted: u64, now_nanos: u64) -> Result<u64, OpenError> {
    let mut id = wanted;
    if let Some(mark) = &listing.marks.newest {
        if id != 0 && mark.log_id != id {
            let why = format!("it belongs to log {:#x}, this is log {id:#x}", mark.log_id);
            return Err(OpenError::ForeignFile { name: MARKS_FILE.to_owned(), why });
        }
        id = mark.log_id;
    }
    for found in &listing.segments {
        let HeaderBlock::Header(header) = &found.head else { continue };
        let foreign = |why: String| Err(OpenError::ForeignFile { name: found.name(), why });
        if id != 0 && header.log_id != id {
            return foreign(format!("it belongs to log {:#x}, this is log {id:#x}", header.log_id));
        }
        id = header.log_id;
        if header.incarnation > found.incarnation {
            return foreign(format!("it was segment {}", header.incarnation.file_name()));
        }
        if header.incarnation == found.incarnation && header.segment_bytes != found.bytes {
            return foreign(format!("it has {} bytes and should have {}", found.bytes, header.segment_bytes));
        }
    }
    if id == 0 {
        // A mix of the time, never 0: enough to tell two logs of one machine apart.
        id = now_nanos.wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9) | 1;
    }
    Ok(id)
}

/// Damaged entries, or those that may be lost: stream, first and last index.
pub(crate) type Missing = Vec<(u64, u64, u64)>;

/// Follows the whole log and judges its end, without changing anything: what opening does first.
pub(crate) fn verify_log<D: Disk>(
    disk: &mut D,
    recovery: &mut dyn Recovery,
) -> (Recovered, Missing, Option<OpenError>) {
    let mut replay = Replay::new();
    let mut run = || {
        let listing = list(disk)?;
        check_identity(&listing, 0, 0)?;
        replay.follow(disk, &listing.segments, &listing.marks, recovery)?;
        replay.taken.finish(recovery);
        Ok(())
    };
    let outcome = run();
    let missing = replay.taken.missing();
    (replay.recovered, missing, outcome.err())
}

/// Removes files that a process left unfinished, as far as the file system has room to remove anything. The highest number
/// among the names.
fn remove_unfinished<D: Disk>(disk: &mut D, names: &[String]) -> Result<u64, DiskError> {
    let mut highest = 0;
    for name in names {
        highest = highest.max(unfinished_serial(name).unwrap_or(0));
        if let Err(error) = perform(disk, Op::Unlink { name: name.clone() })
            && !error.is_out_of_space()
        {
            return Err(error);
        }
    }
    Ok(highest)
}

/// Sorts the files: segments that are kept, and spares: prepared and never used, cut away, superseded, or trimmed.
fn retire(replay: &mut Replay, listing: &Listing, segments: &mut Segments) {
    let mut kept = std::mem::take(&mut replay.kept);
    // A segment without a batch holds nothing, and its successor begins where it does. Its header alone says where the log
    // ends, so it stays until the successor's is durable: a late write of a dead process may lie behind that end.
    let mut held: Vec<Incarnation> = Vec::new();
    while let Some(last) = kept.pop_if(|s| s.start == s.end) {
        held.push(last.incarnation);
        if let Some(header) = header_of(listing, last.incarnation) {
            replay.chain.crc = Some(header.previous_crc);
        }
    }
    // A trim record behind the end that was found is true, and is not part of the log: before the next one is durable, the
    // segments stay.
    let (_, first_live) = replay.taken.moves.counted(replay.chain.lsn);
    kept.splice(0..0, std::mem::take(&mut replay.skipped));
    kept.retain(|s| s.incarnation >= first_live.max(replay.needed));
    for found in &listing.segments {
        if !kept.iter().any(|s| s.incarnation == found.incarnation) {
            let spare = Spare { name: found.name(), file: found.file, bytes: found.bytes };
            match held.contains(&found.incarnation) && !mutant::EMPTY_SEGMENT_RECYCLED {
                true => segments.held.push(spare),
                false => segments.spares.push_back(spare),
            }
        }
    }
    kept.into_iter().for_each(|segment| segments.push(segment));
}

fn header_of(listing: &Listing, incarnation: Incarnation) -> Option<SegmentHeader> {
    listing.segments.iter().find(|f| f.incarnation == incarnation).and_then(Found::header).copied()
}

/// Prepares segments and starts the first one: its header, durable, makes the end that was found final.
fn start<D: Disk>(wal: &mut Wal<D>, listing: &Listing, now_nanos: u64) -> Result<(), OpenError> {
    let wanted = wal.options.segments_ahead.max(1);
    loop {
        if !wal.segments.is_active() && wal.segments.prepared_count() > 0 {
            // Nothing is under way here: the next file is prepared only afterwards.
            if !move_tail(wal, &listing.segments)? {
                wal.rotate(now_nanos);
            }
        }
        wal.maybe_prepare(now_nanos);
        let ready = wal.flights.is_empty() && wal.segments.prepared_count() >= wanted;
        // On a full disk the log opens with what there is.
        let blocked = wal.segments.is_idle() && (wal.flights.is_empty() || wal.retry_at.is_some());
        if blocked && !ready {
            resume_last(wal, &listing.segments)?;
        }
        if ready || blocked {
            wal.update_room();
            return Ok(());
        }
        wal.wait_once(now_nanos);
        if let Health::Poisoned(error) = &wal.health {
            return Err(OpenError::Disk(error.clone()));
        }
    }
}
