//! What a panic threw, to be looked at by several threads.

use std::any::Any;
use std::fmt;

/// A value that threads share although its type is not `Sync`.
///
/// It is looked at as a `T` only where `T` is `Sync`.
pub(crate) struct SharedPayload(Box<dyn Any + Send>);

// SAFETY: what is shared is a `&SharedPayload`, and all that can be had through it is a `&T` of a type that is `Sync`, or that
// the value is of another type: the type is asked for by a method of the box's vtable, which reads nothing of the value.
unsafe impl Sync for SharedPayload {}

impl SharedPayload {
    pub(crate) fn new(value: Box<dyn Any + Send>) -> Self {
        SharedPayload(value)
    }

    pub(crate) fn downcast_ref<T: Any + Sync>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }

    pub(crate) fn into_inner(self) -> Box<dyn Any + Send> {
        self.0
    }
}

impl fmt::Debug for SharedPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedPayload")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn threads_look_at_what_was_thrown_as_what_it_is() {
        let payload = SharedPayload::new(Box::new(String::from("thrown")));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    assert_eq!(payload.downcast_ref::<String>().unwrap(), "thrown");
                    assert!(payload.downcast_ref::<&str>().is_none());
                });
            }
        });
        assert_eq!(*payload.into_inner().downcast::<String>().unwrap(), "thrown");
    }

    #[test]
    fn what_is_not_sync_is_given_back_whole() {
        let payload = SharedPayload::new(Box::new(std::cell::Cell::new(7)));
        let cell = payload.into_inner().downcast::<std::cell::Cell<i32>>().unwrap();
        assert_eq!(cell.get(), 7);
    }
}
