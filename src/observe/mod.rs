//! What can be seen of a call while it goes on, and afterwards.
//!
//! * `watch`: what is watched of one call; absent from a call that nobody watches.
//! * `progress`: how many items are finished, for bars and closures. `insights`: where the time went.
//! * `span`: the caller's `tracing` span around its tasks.
//!
//! Uses `panic` and `sync`, and nothing of the scheduler; `scheduler`, `task`, `map`, `stream` and `pool` use it.

mod insights;
mod progress;
mod span;
mod watch;

pub use insights::{Bottleneck, CallInsights, Insights, LongItems, WorkerInsights};
pub(crate) use insights::{Record, Recorder};
pub use progress::Progress;
pub(crate) use span::Caller;
pub(crate) use watch::{Observer, Watch};
