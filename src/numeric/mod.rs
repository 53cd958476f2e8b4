//! Verbs for numeric code, made of the others.
//!
//! * `seed`: random numbers that do not depend on the number of workers.
//! * `array`: maps over `ndarray`'s arrays (feature `ndarray`).
//!
//! Uses `pool`; nothing uses it.

#[cfg(feature = "ndarray")]
mod array;
mod seed;

#[cfg(test)]
pub(crate) use seed::Draws;
pub use seed::{Seed, Seeded};
