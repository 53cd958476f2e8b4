//! The only `unsafe` code of the crate: results written in place, and work that borrows.
//!
//! Five things have no safe form, or none that costs nothing; each has a file, in which every block
//! says why it is sound from what stands in that file alone:
//!
//! * `fill`: many threads write the results of a map into one `Vec`.
//! * `spsc`: a worker hands the results of a chunk to the consumer of a stream, one by one.
//! * `lend`: the workers use what is on the stack of a caller, which waits for them.
//! * `scope`: the same for any number of tasks, which have handles. Both are made of `borrowed`, which counts who
//!   uses what was lent.
//! * [`SharedPayload`]: threads look at what a panic threw.
//!
//! Under Miri, `frames` asks it how deep the stack is.
#![allow(unsafe_code)]

mod borrowed;
mod fill;
#[cfg(miri)]
mod frames;
mod lend;
mod payload;
mod scope;
mod spsc;

pub(crate) use fill::{OutputRun, OutputSlots, SharedOutput, fill};
#[cfg(miri)]
pub(crate) use frames::frames;
pub(crate) use lend::{BorrowedJob, Job, lend};
pub(crate) use payload::SharedPayload;
pub(crate) use scope::{BorrowedTask, End, ScopeTasks, scope};
pub(crate) use spsc::{Reader, Writer, channel};
