//! The vocabulary of [`parpool`] over the ranks of an MPI job.
//!
//! For when the work outgrows a machine: a cluster has MPI, and this speaks it, by the crate `mpi`. It takes an MPI
//! library and libclang to build.
//!
//! ```
//! use parpool_mpi::{MpiError, MpiPool};
//!
//! fn main() -> Result<(), MpiError> {
//!     let pool = MpiPool::init()?;
//!     let roots = pool.map(|x: f64| x.sqrt(), vec![1.0, 4.0, 9.0])?;
//!     if let Some(roots) = roots {
//!         assert_eq!(roots, [1.0, 2.0, 3.0]); // rank 0
//!     }
//!     Ok(())
//! }
//! ```
//!
//! There are two ways to write a program:
//!
//! * [`MpiPool`]: every rank runs the whole program and makes the same calls. Closures may borrow, and
//!   what they capture is there on every rank, because every rank has computed it.
//! * [`MpiTasks`] and [`MpiMaster`], as in Python: closures are registered by every rank, then rank 0
//!   alone goes on, and the others serve.
//!
//! The chapter `docs/cluster.md` of parpool's book leads from a laptop to a Slurm script, and says which MPI, what
//! belongs on rank 0 alone, what fails how, and how large a chunk should be.
//!
//! # Where to look in the source
//!
//! `pool.rs` and `master.rs` are the signatures and the promises, `options.rs` what the verbs do. `root.rs` is rank 0's
//! side of a call, `serve.rs` the others', `handout.rs` who gets what next, `stream.rs` the streams, `task.rs` a chunk at
//! work. `launch.rs` is how a pool begins, `core.rs` what it is while it lives, `link.rs` the messages and `wire.rs` their
//! bytes, `raw.rs` the only `unsafe`. The reasons are in the chapter `docs/design.md`.

mod core;
mod error;
mod handout;
mod launch;
mod link;
mod master;
mod options;
mod panic;
mod pool;
mod raw;
mod root;
mod serve;
mod stream;
mod task;
mod wire;

pub use error::MpiError;
pub use master::{MpiMaster, MpiMasterOptions, MpiTask, MpiTasks};
pub use options::MpiOptions;
pub use pool::{MpiBuilder, MpiPool};
pub use stream::MpiImap;
pub use wire::Portable;

// All code in the texts is tested.
#[cfg(doctest)]
mod texts {
    #[doc = include_str!("../README.md")]
    mod readme {}
    #[doc = include_str!("../../docs/cluster.md")]
    mod cluster {}
}
