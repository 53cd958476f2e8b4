//! What users hold: the pool, its builder, the options of a call, a scope, the global pool.
//!
//! * `pool`: [`Pool`] and its verbs. Each is its signature, its documentation and a call of the same verb of [`Options`].
//! * `options`: what a call can be asked for besides (chunk size, window, deadline, progress), and the verbs themselves.
//! * `builder`: how a pool is set up. What its threads are set up with, `Context`, is in `scheduler`.
//! * `scope`: calls that go on by themselves and may borrow.
//! * `global`: the pool of the process, and free functions with the names of the verbs.
//!
//! Uses every other folder but `numeric`; only `numeric`, which adds verbs to these types, uses it.

mod builder;
mod global;
mod options;
#[expect(clippy::module_inception)]
mod pool;
mod scope;

pub use builder::{Builder, InitializerOutput};
pub use global::{
    apply, apply_async, global, imap, imap_unordered, install, map, map_async, map_into, reduce,
    scope, starmap, starmap_async, sum, try_map,
};
pub use options::Options;
pub use pool::Pool;
pub use scope::Scope;
