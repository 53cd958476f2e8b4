//! What can go wrong on more than one rank.

use std::fmt;

use parpool::Error;

use crate::wire;

/// Why a call to a pool of ranks has no value.
///
/// What happens to a call as a whole is the same error on every rank, so that `?` keeps the ranks in
/// step: all go on, or all leave.
///
/// ```
/// use parpool_mpi::{MpiError, MpiPool};
///
/// let pool = MpiPool::init()?;
/// let inverse = |x: i32| if x == 0 { panic!("division by zero") } else { 1.0 / f64::from(x) };
/// match pool.map(inverse, vec![1, 2, 0, 4, 0]) {
///     Err(MpiError::Panicked { index, message, .. }) => {
///         assert_eq!((index, message.as_str()), (2, "division by zero"));
///     }
///     other => unreachable!("{other:?}"),
/// }
/// # Ok::<(), MpiError>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum MpiError {
    /// The closure panicked. Of several items that do, the one with the lowest index, every time.
    Panicked {
        /// The place of the item in the input, from 0.
        index: usize,
        /// The rank that ran it.
        rank: usize,
        /// The message of the panic.
        message: String,
    },
    /// The ranks did not make the same calls in the same order; the text says who was where. The pool
    /// cannot go on: each later call is this error too.
    Diverged(String),
    /// A rank cannot be reached any more: its process was killed, or its node is gone. Only an MPI that
    /// was told to tolerate faults lives to say so; others end the job.
    RankLost {
        /// The rank that was lost.
        rank: usize,
        /// MPI's words for it.
        reason: String,
    },
    /// A message would be 2 GiB or longer, which MPI cannot send. Take smaller chunks, or smaller items.
    TooLarge {
        /// How long it would be, in bytes.
        bytes: usize,
    },
    /// An item or a result could not be made into bytes, or back.
    Codec(String),
    /// The pool is in a call: a task, or the body of a loop over a stream, cannot make another.
    Busy,
    /// MPI cannot be used as it is; the text says why and what to do.
    Mpi(String),
    /// An argument that cannot work, or a thread that could not be started.
    Pool(Error),
}

impl fmt::Display for MpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MpiError::Panicked { index, rank, message } => {
                write!(f, "the closure panicked at item {index} on rank {rank}: {message}")
            }
            MpiError::Diverged(how) => write!(f, "the ranks are out of step: {how}"),
            MpiError::RankLost { rank, reason } => write!(f, "rank {rank} is lost: {reason}"),
            MpiError::TooLarge { bytes } => write!(
                f,
                "a message of {bytes} bytes is too long for MPI, whose limit is 2 GiB: set a smaller \
                 chunksize; if it is a single item, cut it up, or pass its name and let the task read it"
            ),
            MpiError::Codec(why) => f.write_str(why),
            MpiError::Busy => f.write_str(
                "the pool is in a call: a task, or the body of a loop over a stream, cannot call it",
            ),
            MpiError::Mpi(why) => f.write_str(why),
            MpiError::Pool(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for MpiError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            MpiError::Pool(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Error> for MpiError {
    fn from(error: Error) -> Self {
        MpiError::Pool(error)
    }
}

impl MpiError {
    /// What travels to the other ranks: a kind, two numbers, a text.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let parts = match self {
            MpiError::Panicked { index, rank, message } => (0u8, *index, *rank, message.clone()),
            MpiError::Diverged(how) => (1, 0, 0, how.clone()),
            MpiError::RankLost { rank, reason } => (2, 0, *rank, reason.clone()),
            MpiError::TooLarge { bytes } => (3, *bytes, 0, String::new()),
            MpiError::Codec(why) => (4, 0, 0, why.clone()),
            other => (5, 0, 0, other.to_string()),
        };
        wire::plain(&parts)
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        match wire::read_plain::<(u8, usize, usize, String)>(bytes) {
            Ok((0, index, rank, message)) => MpiError::Panicked { index, rank, message },
            Ok((1, _, _, how)) => MpiError::Diverged(how),
            Ok((2, _, rank, reason)) => MpiError::RankLost { rank, reason },
            Ok((3, bytes, _, _)) => MpiError::TooLarge { bytes },
            Ok((4, _, _, why)) => MpiError::Codec(why),
            Ok((_, _, _, why)) => MpiError::Mpi(why),
            Err(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_travels() {
        let errors = [
            MpiError::Panicked { index: 7, rank: 2, message: "no".to_owned() },
            MpiError::Diverged("rank 1".to_owned()),
            MpiError::RankLost { rank: 3, reason: "gone".to_owned() },
            MpiError::TooLarge { bytes: 1 << 40 },
            MpiError::Codec("not a number".to_owned()),
        ];
        for error in errors {
            let back = MpiError::from_bytes(&error.to_bytes());
            assert_eq!(format!("{back:?}"), format!("{error:?}"));
        }
    }
}
