//! Opening a log: find its segments, follow the chain, tell a torn tail from damage, flush, and start afresh.

use std::collections::VecDeque;

use super::reader::Reader;
use super::scan::{Chain, Damage, Found, attested, perform, scan_segment};
use super::space::{SEGMENTS_MIN, Segment, Segments, Spare};
use super::tail::move_tail;
use super::taken::Taken;
use super::{Health, OpenError, Options, Recovered, Recovery, Stats, Ticket, Wal};
use crate::disk::{Disk, DiskError, Done, Op, OpenMode};
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK, BatchHeader, FORMAT_VERSION, FileName, HeaderBlock, Incarnation, Lsn,
    PAYLOAD_MAX, RECORD_OVERHEAD_MAX, Records, SegmentHeader, parse_file_name,
};
use crate::mutant;

/// Largest budget that is taken by default.
const BUDGET_BYTES_MAX: u64 = 64 << 30;

/// What the directory holds.
struct Listing {
    /// By incarnation, ascending.
    segments: Vec<Found>,
    unfinished: Vec<String>,
}

/// What following the chain came to.
struct Replay {
    /// Segments of the chain that are kept, oldest first.
    kept: Vec<Segment>,
    chain: Chain,
    durable_end: Lsn,
    taken: Taken,
    recovered: Recovered,
}

impl Replay {
    fn new() -> Replay {
        Replay {
            kept: Vec::new(),
            chain: Chain { lsn: Lsn(0), crc: 0 },
            durable_end: Lsn(0),
            taken: Taken::new(),
            recovered: Recovered::default(),
        }
    }
}

pub(super) fn open<D: Disk>(
    mut disk: D,
    options: Options,
    now_nanos: u64,
    recovery: &mut dyn Recovery,
) -> Result<Wal<D>, OpenError> {
    let budget_bytes = check_options(&mut disk, &options)?;
    let listing = list(&mut disk)?;
    let log_id = check_identity(&listing, options.log_id, now_nanos)?;
    let mut replay = Replay::new();
    follow(&mut disk, &listing.segments, recovery, &mut replay)?;
    replay.taken.tell_verdicts(recovery);
    let incarnation = listing.segments.last().map_or(Incarnation::NONE, |f| f.incarnation).next();
    let mut segments = Segments::new(&options, budget_bytes, incarnation);
    // From here on the directory is changed. What was read may have come from caches: it has to be on stable storage before
    // anybody acts on it, and writes of a dead process have to be over before their places are used again.
    if !mutant::RECOVERY_UNFLUSHED {
        flush(&mut disk, &listing)?;
    }
    for name in &listing.unfinished {
        perform(&mut disk, Op::Unlink { name: name.clone() })?;
    }
    retire(&mut replay, &listing, &mut segments);
    let durable_end = replay.chain.lsn;
    let Taken { index, losses, .. } = replay.taken;
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
        retry_at: None,
        chain: replay.chain.crc,
        durable: Ticket(0),
        durable_end,
        segments,
        reader: Reader::default(),
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
    start(&mut wal, &listing, now_nanos)?;
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
    let record = u64::from(payload_bytes_max) + (BATCH_HEADER_BYTES + RECORD_OVERHEAD_MAX) as u64;
    if payload_bytes_max > PAYLOAD_MAX || record > segment_bytes - BLOCK {
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
    let mut listing = Listing { segments: Vec::new(), unfinished: Vec::new() };
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
                let buffer = disk.buffer(BLOCK as usize);
                let read = perform(disk, Op::Read { file, offset: 0, buffer, len: BLOCK as u32 })?;
                let Some(buffer) = read.buffer else { unreachable!("a read returns its buffer") };
                let head = SegmentHeader::decode(buffer.as_slice());
                disk.recycle(buffer);
                if let HeaderBlock::Foreign = head {
                    return Err(OpenError::ForeignFile {
                        name,
                        why: "it does not begin like a segment".to_owned(),
                    });
                }
                if let HeaderBlock::Version(found) = head {
                    return Err(OpenError::Version { segment: name, found, supported: FORMAT_VERSION });
                }
                listing.segments.push(Found { incarnation, file, bytes: len, head });
            }
        }
    }
    listing.segments.sort_by_key(|f| f.incarnation);
    Ok(listing)
}

/// The number of this log: all segments have the same, and the one that was asked for.
fn check_identity(listing: &Listing, wanted: u64, now_nanos: u64) -> Result<u64, OpenError> {
    let mut id = wanted;
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

/// The segments that the newest header leads back to, oldest first, and the first one that is missing.
fn chain_of(segments: &[Found]) -> (Vec<&Found>, Incarnation) {
    let Some(newest) = segments.iter().rev().find(|f| f.header().is_some()) else {
        return (Vec::new(), Incarnation::NONE);
    };
    let mut chain = vec![newest];
    let mut at = newest;
    loop {
        // A header that was lost cannot name its predecessor; segments are numbered in order.
        let predecessor = match at.header() {
            Some(header) if header.predecessor < at.incarnation => header.predecessor,
            _ => Incarnation(at.incarnation.0 - 1),
        };
        match segments.binary_search_by_key(&predecessor, |f| f.incarnation) {
            Ok(number) if predecessor != Incarnation::NONE => {
                at = &segments[number];
                chain.push(at);
            }
            _ => {
                chain.reverse();
                return (chain, predecessor);
            }
        }
    }
}

/// Follows the whole log and judges its end, without changing anything: what opening does first.
pub(crate) fn verify_log<D: Disk>(
    disk: &mut D,
    recovery: &mut dyn Recovery,
) -> (Recovered, Option<OpenError>) {
    let mut replay = Replay::new();
    let mut run = || {
        let listing = list(disk)?;
        check_identity(&listing, 0, 0)?;
        follow(disk, &listing.segments, recovery, &mut replay)
    };
    let outcome = run();
    (replay.recovered, outcome.err())
}

fn follow<D: Disk>(
    disk: &mut D,
    segments: &[Found],
    recovery: &mut dyn Recovery,
    replay: &mut Replay,
) -> Result<(), OpenError> {
    let (chain_segments, missing) = chain_of(segments);
    let total: u64 = chain_segments.iter().map(|f| f.bytes).sum();
    let mut done = 0;
    for (number, found) in chain_segments.iter().enumerate() {
        let header = match found.header() {
            Some(header) => *header,
            None => {
                judge(disk, segments, found, head_damage(found), replay)?;
                break;
            }
        };
        if number == 0 {
            replay.chain = Chain { lsn: header.start, crc: header.previous_crc };
        }
        // A segment begins where its predecessor ends, with the link of the chain there.
        if header.start != replay.chain.lsn || header.previous_crc != replay.chain.crc {
            let damage = Damage { offset: 0, expected_crc: replay.chain.crc, found_crc: header.previous_crc };
            judge(disk, segments, found, damage, replay)?;
            break;
        }
        replay.chain.crc = header.crc;
        replay.durable_end = replay.durable_end.max(header.durable_end);
        replay.taken.first_live = replay.taken.first_live.max(header.first_live);
        let successor = chain_segments.get(number + 1).and_then(|f| f.header());
        let limit = successor.filter(|h| h.predecessor == found.incarnation).map(|h| h.start);
        let damage = scan(disk, found, &header, limit, recovery, replay)?;
        replay.kept.push(Segment {
            incarnation: found.incarnation,
            file: found.file,
            bytes: found.bytes,
            start: header.start,
            end: replay.chain.lsn,
            readers: 0,
        });
        replay.recovered.segments += 1;
        done += found.bytes;
        recovery.progress(done, total);
        if let Some(damage) = damage {
            judge(disk, segments, found, damage, replay)?;
            break;
        }
    }
    if replay.recovered.cut.is_none() {
        // The last segment was full to its end, or no header is intact: what lies behind still has to be looked at.
        let end = chain_segments.last().map_or(Incarnation::NONE, |f| f.incarnation);
        if let Some(next) = segments.iter().find(|f| f.incarnation > end) {
            judge(disk, segments, next, head_damage(next), replay)?;
            replay.recovered.cut = None;
        }
    }
    let oldest = chain_segments.first().map_or(Incarnation::NONE, |f| f.incarnation);
    if missing != Incarnation::NONE && replay.taken.first_live < oldest {
        return Err(OpenError::MissingSegment { segment: missing.file_name() });
    }
    Ok(())
}

fn scan<D: Disk>(
    disk: &mut D,
    found: &Found,
    header: &SegmentHeader,
    limit: Option<Lsn>,
    recovery: &mut dyn Recovery,
    replay: &mut Replay,
) -> Result<Option<Damage>, OpenError> {
    let mut chain = replay.chain;
    let mut on_batch = |batch: &BatchHeader, bytes: &[u8], offset: u64| -> Result<(), OpenError> {
        replay.durable_end = replay.durable_end.max(batch.durable_end);
        replay.recovered.batches += 1;
        replay.recovered.bytes += batch.padded();
        let mut records = 0;
        for record in Records::new(batch, bytes) {
            let malformed = |why: String| OpenError::Malformed { segment: found.name(), offset, why };
            let (lsn, record) = record.map_err(|fault| malformed(format!("record {records}: {fault:?}")))?;
            replay.taken.take(recovery, lsn, &record).map_err(malformed)?;
            records += 1;
        }
        replay.recovered.records += records;
        Ok(())
    };
    let damage = scan_segment(disk, found, header, limit, &mut chain, &mut on_batch)??;
    replay.chain = chain;
    Ok(damage)
}

/// A segment without an intact header of its own, as damage.
fn head_damage(found: &Found) -> Damage {
    match found.head {
        HeaderBlock::Damaged { stored, computed } => {
            Damage { offset: 0, expected_crc: stored, found_crc: computed }
        }
        _ => Damage::default(),
    }
}

/// The chain ended at `damage` in `found`. Everything behind it is looked through for what it attests: if the damaged place
/// was known durable, acknowledged data is damaged and the log does not open.
fn judge<D: Disk>(
    disk: &mut D,
    segments: &[Found],
    found: &Found,
    damage: Damage,
    replay: &mut Replay,
) -> Result<(), OpenError> {
    let mut durable_end = replay.durable_end;
    for later in segments.iter().filter(|f| f.incarnation >= found.incarnation) {
        let offset = if later.incarnation == found.incarnation { damage.offset } else { BLOCK };
        durable_end = durable_end.max(attested(disk, later, offset)?);
        if later.incarnation > found.incarnation
            && let Some(header) = later.header()
        {
            durable_end = durable_end.max(header.durable_end);
        }
    }
    if replay.chain.lsn < durable_end && !mutant::CUT_ACKNOWLEDGED {
        return Err(OpenError::Corrupt {
            segment: found.name(),
            offset: damage.offset,
            expected_crc: damage.expected_crc,
            found_crc: damage.found_crc,
            durable_end: durable_end.0,
        });
    }
    replay.recovered.cut = Some((found.name(), damage.offset));
    Ok(())
}

fn flush<D: Disk>(disk: &mut D, listing: &Listing) -> Result<(), DiskError> {
    for found in &listing.segments {
        perform(disk, Op::Sync { file: found.file })?;
    }
    perform(disk, Op::SyncDir)?;
    Ok(())
}

/// Sorts the files: segments that are kept, and spares: prepared and never used, cut away, superseded, or trimmed.
fn retire(replay: &mut Replay, listing: &Listing, segments: &mut Segments) {
    let mut kept = std::mem::take(&mut replay.kept);
    // A segment without a batch holds nothing, and its successor begins where it does.
    while let Some(last) = kept.pop_if(|s| s.start == s.end) {
        if let Some(header) = header_of(listing, last.incarnation) {
            replay.chain.crc = header.previous_crc;
        }
    }
    kept.retain(|s| s.incarnation >= replay.taken.first_live);
    for found in &listing.segments {
        if !kept.iter().any(|s| s.incarnation == found.incarnation) {
            segments.spares.push_back(Spare { name: found.name(), file: found.file, bytes: found.bytes });
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
        // On a full disk the log opens for reading; writing goes on when there is space.
        let blocked = wal.segments.is_idle() && (wal.flights.is_empty() || wal.retry_at.is_some());
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
