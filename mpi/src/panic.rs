//! What is done with a panic of the user's code: it is caught, and its message travels.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a `panic!` threw.
pub(crate) type Payload = Box<dyn Any + Send>;

/// Runs `f` and catches its panic.
///
/// Closures need not be `UnwindSafe`, as those of `parpool` need not: the panic is not hidden, it comes back as an
/// error.
pub(crate) fn catch<R>(f: impl FnOnce() -> R) -> Result<R, Payload> {
    catch_unwind(AssertUnwindSafe(f))
}

/// Drops `value`; a panic of its `Drop` ends here.
pub(crate) fn discard<T>(value: T) {
    if let Err(payload) = catch(|| drop(value)) {
        // The payload may be of a type whose own `Drop` panics, and so may what that throws. A leak is the end of the
        // chain.
        if let Err(payload) = catch(|| drop(payload)) {
            std::mem::forget(payload);
        }
    }
}

/// The message of a panic, in the words of `parpool::Panic`. What was thrown is dropped: it cannot travel.
pub(crate) fn message_of(payload: Payload) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = text.unwrap_or("a panic without a message").to_owned();
    discard(payload);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::panic_any(Bomb);
        }
    }

    #[test]
    fn a_discarded_value_may_panic_with_a_payload_that_panics() {
        discard(Bomb);
        assert_eq!(message_of(Box::new(Bomb)), "a panic without a message");
    }

    #[test]
    fn messages_are_those_of_the_pool() {
        let words: [fn(); 3] =
            [|| panic!("static"), || panic!("{} made", 1), || std::panic::panic_any(7)];
        for word in words {
            let message = message_of(catch(word).expect_err("it panics"));
            let pool = parpool::Pool::builder().context(parpool::Context::serial()).build();
            match pool.and_then(|pool| pool.apply(word, ())) {
                Err(parpool::Error::Panicked(panic)) => assert_eq!(panic.message(), message),
                other => panic!("{other:?}"),
            }
        }
    }
}
