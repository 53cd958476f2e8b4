//! All code in the texts is tested: the listings of README.md and docs/ are the examples of these modules.

#![cfg(doctest)]

#[doc = include_str!("../README.md")]
mod readme {}
#[doc = include_str!("../docs/README.md")]
mod introduction {}
#[doc = include_str!("../docs/tutorial.md")]
mod tutorial {}
#[doc = include_str!("../docs/migrating.md")]
mod migrating {}
#[doc = include_str!("../docs/python.md")]
mod python {}
#[doc = include_str!("../docs/recipes.md")]
mod recipes {}
#[doc = include_str!("../docs/streams.md")]
mod streams {}
#[doc = include_str!("../docs/numbers.md")]
mod numbers {}
#[doc = include_str!("../docs/async.md")]
mod async_tasks {}
#[doc = include_str!("../docs/workers.md")]
mod workers {}
#[doc = include_str!("../docs/errors.md")]
mod errors {}
#[doc = include_str!("../docs/insights.md")]
mod insights {}
#[doc = include_str!("../docs/performance.md")]
mod performance {}
#[doc = include_str!("../docs/reliability.md")]
mod reliability {}
#[doc = include_str!("../docs/design.md")]
mod design {}
