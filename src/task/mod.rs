//! One call: what it was asked for, its state, its handle.
//!
//! * `context`: what a call was asked for, and why it is over before its work is (deadline, `terminate`, `cancel`).
//! * `apply`: a call that its caller waits for.
//! * `call`: a call that goes on by itself: its closure and its outcome in one block of memory.
//! * `state`: that outcome: nothing yet, there, taken; who waits for it, and what is called back.
//! * `handle`: [`TaskHandle`], what its owner can do. `as_completed`: several handles in the order they are done.
//!
//! Uses `scheduler`, `observe` and `raw`; `map`, `stream` and `pool` use it.

mod apply;
mod as_completed;
mod call;
mod context;
mod handle;
mod state;

pub(crate) use apply::apply;
pub use as_completed::{AsCompleted, as_completed};
pub(crate) use call::{CallKind, Submitted, refused, submit, submit_by};
pub(crate) use context::{CallContext, CallOptions};
pub use handle::{AsyncResult, TaskHandle};
pub(crate) use state::TaskState;
