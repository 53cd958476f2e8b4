//! `imap` and `imap_unordered`: results as they come, in a window of items.
//!
//! * `consumer`: [`Imap`], on the thread that calls `next`: pulls the input, keeps the window, hands results out.
//!   Below it, `polled` is the same for an async consumer.
//! * `chunk`: the workers' side: neighbouring items that are one task, and what is told to the consumer.
//!
//! Uses `task`, `scheduler`, `map` (chunk sizes) and `raw` (the way of a result from thread to thread); `pool` uses it.

mod chunk;
mod consumer;

pub use consumer::Imap;
#[cfg(feature = "futures")]
pub use consumer::ImapStream;
pub(crate) use consumer::Settings;
