//! Places where code may be made to do less at a time than it could, or to do it sooner than it would: what is allowed, and hardly ever
//! happens. A simulator says when; outside of it nothing ever strikes, and the question is gone from the compiled code.

/// A place, by what is done there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point(pub &'static str);

/// A batch of the log is closed before it is full.
pub const CUT_BATCH: Point = Point("log batches cut short");

/// Who decides. It comes with the [`Disk`](crate::Disk), because everything that has such places is handed one: the default is never, known at
/// compile time.
pub trait Buggify {
    /// Whether the place is to do its worst this time. May be asked on any path: for real disks the answer is a constant.
    #[inline(always)]
    fn strikes(&mut self, point: Point) -> bool {
        let _ = point;
        false
    }
}
