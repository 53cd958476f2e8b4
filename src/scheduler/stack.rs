//! Where on its thread's stack a job runs: at the bottom of rayon's main loop, or on top of a rayon wait.
//!
//! Rayon may start any job of its pool inside any wait (`join`, `scope`, `par_iter`, `yield_now`), and tells
//! nobody. But its main loop starts each job through the same few functions; so the distance from the frame
//! that calls the main loop to the frame of the job is one number for all jobs of one type, whatever the
//! thread, and larger for a job inside a wait, which lies above the frames of the job that waits. That number
//! is measured, once in a process, before any code of the user's runs: see `threads::calibrate`.
//!
//! Nothing is read or written through these addresses; they are only compared. On a foreign stack, such as a
//! coroutine's, they are far off, which counts as inside a wait.

use std::cell::Cell;
use std::sync::OnceLock;

thread_local! {
    /// Where rayon's main loop was called on this thread.
    static BASE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The largest distance from the base at which a job is at the bottom.
static BOTTOM: OnceLock<usize> = OnceLock::new();

/// A number that grows with the depth of the stack.
#[inline(never)]
fn position() -> usize {
    #[cfg(miri)]
    {
        // Addresses mean nothing there, but frames can be counted.
        crate::raw::frames()
    }
    #[cfg(not(miri))]
    {
        let here = 0_u8;
        // A stack grows towards lower addresses, on all machines that Rust has threads on.
        usize::MAX - std::ptr::from_ref(std::hint::black_box(&here)).addr()
    }
}

/// Marks the caller, who calls rayon's main loop next, as the base of this thread. Never to be inlined
/// anywhere: it has one caller, so that the distance is one number.
#[inline(never)]
pub(crate) fn set_base() {
    BASE.set(Some(position()));
}

/// How far the caller is from the base of this thread; very far where there is none.
#[inline(never)]
pub(crate) fn distance() -> usize {
    let here = position();
    BASE.get().map_or(usize::MAX, |base| here.wrapping_sub(base))
}

/// Whether a job that measured `distance` is at the bottom of its thread.
pub(crate) fn is_bottom(distance: usize) -> bool {
    BOTTOM.get().is_some_and(|bottom| distance <= *bottom)
}

pub(crate) fn is_calibrated() -> bool {
    BOTTOM.get().is_some()
}

/// What jobs have measured that are known to be at the bottom, or as little above it as can be. False if
/// they cannot be told apart.
pub(crate) fn calibrate(at_bottom: &[usize], nested: &[usize]) -> bool {
    let limit = limit(at_bottom, nested);
    // Another thread may have been faster, with the same result.
    limit.inspect(|limit| _ = BOTTOM.set(*limit)).is_some()
}

/// Half way between the two, for a frame may be moved by a few bytes for the sake of its alignment.
fn limit(at_bottom: &[usize], nested: &[usize]) -> Option<usize> {
    let (low, high) = (*at_bottom.iter().max()?, *nested.iter().min()?);
    let spread = low - at_bottom.iter().min()?;
    (high > low && high - low > 2 * spread).then(|| low + (high - low) / 2)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_told_apart_is_no_calibration() {
        assert_eq!(limit(&[1040, 1040], &[2000]), Some(1520));
        assert_eq!(limit(&[1040, 1056], &[1400]), Some(1228));
        assert_eq!(limit(&[1040], &[1040]), None);
        assert_eq!(limit(&[1040], &[900]), None, "the stack grows the other way");
        assert_eq!(limit(&[1000, 1800], &[2000]), None, "the bottom is not one place");
        assert_eq!(limit(&[], &[2000]), None);
        assert_eq!(limit(&[0], &[usize::MAX]), Some(usize::MAX / 2));
    }

    #[test]
    fn a_thread_of_somebody_else_is_never_at_the_bottom() {
        assert!(!is_bottom(distance()));
    }
}
