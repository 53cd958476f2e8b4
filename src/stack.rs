//! Where on its thread's stack a job runs: at the bottom of rayon's main loop, or on top of a rayon wait.
//!
//! Rayon may start any job of its pool inside any wait (`join`, `scope`, `par_iter`, `yield_now`), and tells
//! nobody. But its main loop starts each job through the same few functions; so the distance from the frame
//! that calls the main loop to the frame of the job is one number for all jobs of one type, whatever the
//! thread, and larger for a job inside a wait, which lies above the frames of the job that waits. That number
//! is measured, once in a process, before any code of the user's runs: see `threads::calibrate`.
//!
//! It is taken as it is, without tolerance: the job that waits may be a closure that was inlined into rayon's code, and its
//! frames take no more than some dozen bytes. What could move a frame by a few bytes from thread to thread is that rayon keeps
//! data of an alignment of its own on the stack; so the base is aligned as strictly ([`Base`]).
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

/// A local of the base's frame, which is aligned by that: no frame above it is aligned more strictly, as long as nobody asks for
/// more than a cache line or two, so each lies at the same distance on every thread.
#[repr(align(256))]
pub(crate) struct Base {
    _byte: u8,
}

/// Marks the caller, who calls rayon's main loop next, as the base of this thread. Never to be inlined
/// anywhere: it has one caller, so that the distance is one number. What it returns is to be kept until then, and shown to
/// [`black_box`](std::hint::black_box) afterwards.
#[inline(never)]
pub(crate) fn set_base() -> Base {
    BASE.set(Some(position()));
    Base { _byte: 0 }
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

/// That of the bottom, if it is one and all others are larger.
fn limit(at_bottom: &[usize], nested: &[usize]) -> Option<usize> {
    let (&bottom, others) = at_bottom.split_first()?;
    let is_one = others.iter().all(|other| *other == bottom);
    (is_one && *nested.iter().min()? > bottom).then_some(bottom)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_told_apart_is_no_calibration() {
        assert_eq!(limit(&[1040, 1040], &[2000]), Some(1040));
        assert_eq!(limit(&[1040], &[1040]), None);
        assert_eq!(limit(&[1040], &[900]), None, "the stack grows the other way");
        assert_eq!(limit(&[1000, 1016], &[2000]), None, "the bottom is not one place");
        assert_eq!(limit(&[], &[2000]), None);
        assert_eq!(limit(&[0], &[]), None);
        assert_eq!(limit(&[0], &[usize::MAX]), Some(0));
    }

    #[test]
    fn a_thread_of_somebody_else_is_never_at_the_bottom() {
        assert!(!is_bottom(distance()));
    }
}
