//! The blocking verbs over items, and `map_async`.
//!
//! * `blocking`: `map` and its siblings: which engine an input gets, and what becomes of the results.
//! * `engine`: a map that is going on: its workers, who claim blocks of items, run them and give work away.
//! * `source`: what blocks are claimed from: the ranges of a collection, or an iterator that is pulled.
//! * `items`: a batch of items on its way into the closure. `leftovers`: what is left of a block that was given away.
//! * `idle`: which workers found nothing to claim, and who wakes them.
//! * `chunk_size`: how many items a worker takes at once: the one place where that is decided, for streams too.
//! * `reduce`: maps whose results are combined. `background`: maps that go on by themselves.
//!
//! Uses `task`, `scheduler`, `observe`, `input` and `raw`; `pool` and `stream` use it.

mod background;
mod blocking;
mod chunk_size;
mod engine;
mod idle;
mod items;
mod leftovers;
mod reduce;
mod source;

pub(crate) use background::map_async;
pub(crate) use blocking::{map, map_into};
pub(crate) use chunk_size::{MAX_DELAY, SPLIT_AFTER, Window, time_per_item};
pub(crate) use reduce::{Reduce, Total, reduce};
pub(crate) use source::reserved;
