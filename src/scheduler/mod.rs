//! Which thread runs which task, and where threads block.
//!
//! * `shared`: what all handles of a pool share: submitting, waiting, the end.
//! * `queue`: where accepted tasks wait. `runners`: who runs them, and why none is left lying.
//! * `threads`: the threads, and the only lines that touch rayon's pools. `context`: how they are set up.
//! * `stack`: whether a job of rayon's runs at the bottom of its thread. `attendant`: who tries again where it does not.
//! * `worker`: what a thread knows of itself: which worker it is, and what it is running.
//! * `worker_local`: a value for each worker. `park`: the one place where a thread blocks.
//!
//! Uses `observe` (times), `error`, `panic` and `sync`; all folders above use it, by what is re-exported here.

mod attendant;
mod context;
pub(crate) mod park;
mod queue;
mod runners;
mod shared;
mod stack;
mod starts;
pub(crate) mod threads;
pub(crate) mod worker;
mod worker_local;

pub use context::Context;
pub(crate) use park::Wakers;
pub(crate) use queue::{Task, TaskRef, Ticket, Tickets};
pub(crate) use runners::PoolState;
pub(crate) use shared::{Initializer, Shared};
pub(crate) use worker::{Cancellable, Worker, thread_number};
pub use worker::{CurrentTask, WorkerId, current_task, current_worker, is_cancelled};
pub use worker_local::WorkerLocal;
