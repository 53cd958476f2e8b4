//! Locks that a panic does not poison.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, whatever happened to an earlier holder.
///
/// No user code runs under a lock of this crate but where it says so, and each critical section
/// leaves its data whole before it calls anything that could panic; so there is nothing to poison.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
