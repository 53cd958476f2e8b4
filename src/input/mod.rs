//! What verbs accept.
//!
//! * `iterable`: the three families of input: collections, iterators, rayon's parallel iterators.
//! * `star`: functions that are called with a tuple of arguments.
//!
//! Uses `error` and `panic`; `map`, `pool` and `numeric` use it.

mod iterable;
mod star;

pub use iterable::{Collection, Iterable, Parallel, Sequential};
pub(crate) use iterable::{Visitor, gather};
pub use star::{Apply, Star};
