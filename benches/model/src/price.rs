//! What things cost, in nanoseconds. Every price that a model uses is here, with its origin.
//!
//! "page" is the table of measurements that the crate was designed by (one virtual machine with 2
//! cores, AMD EPYC of family 25, Linux, rustc 1.95); "measured" is what `-- prices` measures again
//! on the machine it runs on; "code" is a constant of the crate; "estimate" says so.

use crate::sim::Ns;

pub const US: Ns = 1_000;
pub const MS: Ns = 1_000_000;

// ---- memory --------------------------------------------------------------------------------------

/// `Instant::now()`. Page: 28; measured.
pub const CLOCK: Ns = 28;
/// A cache line that another core wrote last comes over. Measured: half of a ping-pong round, which is
/// 35 to 50 between two cores that share a cache; 100 is what it is between those that do not.
pub const LINE: Ns = 100;
/// A look at one more seat in a row of seats that others write to. Measured: a scan of 256 padded
/// counters that another thread keeps writing, by seat: 5, where one thread writes. Cheaper than
/// [`LINE`], since the misses of a scan overlap; 20 is for seats that are all on other cores.
pub const SEAT: Ns = 20;
/// An atomic read-modify-write on a line that is here. Measured: 2 to 6.
pub const ATOMIC: Ns = 6;
/// A short-lived lock on a line that is here, with a few words changed under it. Measured: 4 in a
/// loop; 20 where the line was last used a slice ago.
pub const LOCK: Ns = 20;
/// A claim from one's own range: a lock, a split, a place for the results. Page: "about 50".
pub const CLAIM: Ns = 50;
/// How long `std::sync::Mutex` spins before it parks its thread. Estimate from its 100 spins.
pub const MUTEX_SPIN: Ns = 2 * US;

// ---- threads -------------------------------------------------------------------------------------

/// What a wake-up costs the one who calls. Measured: `unpark` of a parked thread, 2 to 3 µs on an idle
/// machine, 10 on a busy one. Page: 12 µs for the whole of a `rayon::spawn` while all sleep.
pub const CALL: Ns = 5 * US;
/// From the call to the first instruction of the woken. Page: 8 to 25 µs; measured: 10
/// to 14 on an idle machine, 27 on a busy one.
pub const WAKE: Ns = 15 * US;
/// How long the system lets a thread run while another waits for the core. Linux's base slice.
pub const QUANTUM: Ns = 3 * MS;

// ---- queues --------------------------------------------------------------------------------------

/// A task is boxed and pushed. Page: 71 in all.
pub const SUBMIT: Ns = 70;
/// The part of a push that others wait for: the tail of the injector. Estimate: one atomic operation
/// and a store.
pub const PUSH: Ns = 15;
/// A task is taken from a queue. Page: 37 to take and to run.
pub const POP: Ns = 40;
/// A look into another's deque. Estimate: two reads of lines that others write to, overlapping.
pub const PROBE: Ns = 30;
/// Push to and pop from one's own deque. Estimate: a fence on lines that are here.
pub const DEQUE: Ns = 10;
/// `get` of a task that is done. Page: 37.
pub const GET: Ns = 37;

// ---- items ---------------------------------------------------------------------------------------

/// An item of no work at all: the loop around it, and its result.
pub const TINY: Ns = 1;
/// An item moved into a batch and out again.
pub const MOVE: Ns = 1;
/// A batch of items: its memory.
pub const BATCH: Ns = 60;
/// A stream's input gives one item. Estimate.
pub const PULL: Ns = 10;
/// A stream's chunk is made and queued, without the wake-up. Estimate.
pub const CHUNK: Ns = US;
/// A stream's consumer takes one result from a lane, and pulls an item. Measured: 11 an item of a stream
/// of nothing, in which all wait for the consumer.
pub const HAND: Ns = 10;
/// A worker puts one result into its lane: an atomic addition, and its part of the cache line.
pub const POST: Ns = 10;
/// Both where results go through a lock, as in the first commit. Estimate.
pub const LOCKED: Ns = 20;

// ---- the crate's own constants -------------------------------------------------------------------

/// Code: `chunk::SLICE`.
pub const SLICE: Ns = 20 * US;
/// Code: `chunk::LOOKS`.
pub const LOOKS: usize = 16;
/// Code: `engine::WORTH`.
pub const WORTH: Ns = 10 * US;
/// Code: `engine::PATIENCE`.
pub const PATIENCE: Ns = 50 * US;
/// Code: the `PATIENCE` of `Workers::look_again`.
pub const LOOK_AGAIN: Ns = 20 * US;
/// How long a worker tries for the lock around an iterator: `crossbeam_utils::Backoff` until it is
/// completed, 127 pauses and four yields. Estimate.
pub const BACKOFF: Ns = 6 * US;
/// How long an idle thread of rayon looks for work before it sleeps: 32 yields. Estimate.
pub const RAYON_SEARCH: Ns = 20 * US;
