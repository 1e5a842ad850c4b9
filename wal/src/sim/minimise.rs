//! Making a list of faults shorter as long as the failure stays (delta debugging: Zeller and Hildebrandt, "Simplifying and
//! isolating failure-inducing input", 2002).

/// The shortest list that can be reached by leaving out parts, then single ones, and that still fails: leaving out any one of
/// what is left makes the failure go away. `fails` is asked about a number of lists that grows with the square of what is
/// left in the worst case, and with its logarithm in the usual one. If `faults` itself does not fail it is returned as it is.
pub fn minimise<T: Clone>(faults: &[T], mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut left = faults.to_vec();
    if left.is_empty() || !fails(&left) {
        return left;
    }
    let mut parts = 2usize;
    while !left.is_empty() {
        let size = left.len().div_ceil(parts);
        let mut shorter = None;
        for from in (0..left.len()).step_by(size) {
            let to = (from + size).min(left.len());
            let rest: Vec<T> = left[..from].iter().chain(&left[to..]).cloned().collect();
            if fails(&rest) {
                shorter = Some(rest);
                break;
            }
        }
        match shorter {
            Some(rest) => {
                left = rest;
                parts = parts.saturating_sub(1).max(2);
            }
            None if size == 1 => break,
            None => parts = (parts * 2).min(left.len()),
        }
    }
    left
}
