//! The options of a call, and the verbs themselves: `MpiPool`'s are these with nothing set.

use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, channel};

use parpool::{Error, Star};

use crate::core::{Call, Core};
use crate::error::MpiError;
use crate::pool::MpiPool;
use crate::root::{Root, Settings};
use crate::serve::{Part, Serve, Served};
use crate::stream::MpiImap;
use crate::task::{self, Typed, Work};
use crate::wire::{self, Header, Portable};

/// A pool of ranks with options for the next calls, which it has the same verbs for.
///
/// Made by [`MpiPool::chunksize`] and [`MpiPool::buffersize`]; a small value to be copied and kept. The
/// options that count are rank 0's.
///
/// ```
/// let pool = parpool_mpi::MpiPool::init()?;
/// let small = pool.chunksize(5).buffersize(50);
/// let squares = small.map(|x: u32| x * x, 0..100)?;
/// let count = small.imap(|x: u32| x * x, 0..100).count();
/// assert_eq!(squares.map_or(0, |squares| squares.len()), count);
/// # Ok::<(), parpool_mpi::MpiError>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "options do nothing without a call"]
pub struct MpiOptions<'p> {
    pool: &'p MpiPool,
    settings: Settings,
}

impl<'p> MpiOptions<'p> {
    pub(crate) fn new(pool: &'p MpiPool) -> Self {
        MpiOptions { pool, settings: Settings::default() }
    }

    /// See [`MpiPool::chunksize`].
    ///
    /// ```
    /// # let pool = parpool_mpi::MpiPool::init()?;
    /// pool.buffersize(20).chunksize(2).imap(|x: u8| x, 0..9).for_each(drop);
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    pub fn chunksize(mut self, items: usize) -> Self {
        self.settings.chunksize = Some(items);
        self
    }

    /// See [`MpiPool::buffersize`].
    ///
    /// ```
    /// # let pool = parpool_mpi::MpiPool::init()?;
    /// pool.chunksize(2).buffersize(20).imap(|x: u8| x, 0..9).for_each(drop);
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    pub fn buffersize(mut self, items: usize) -> Self {
        self.settings.buffersize = Some(items);
        self
    }

    /// See [`MpiPool::map`].
    ///
    /// # Errors
    /// As there, also in what a panic of `f` does.
    ///
    /// ```
    /// # let pool = parpool_mpi::MpiPool::init()?;
    /// let squares = pool.chunksize(2).map(|x: u32| x * x, 0..3)?;
    /// assert!(squares.is_none_or(|squares| squares == [0, 1, 4]));
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    #[track_caller]
    pub fn map<I, F, R>(&self, f: F, items: I) -> Result<Option<Vec<R>>, MpiError>
    where
        I: IntoIterator<Item: Portable>,
        F: Fn(I::Item) -> R + Sync,
        R: Portable,
    {
        let call = Call::new::<(F, I::Item, R)>("map", Location::caller());
        let values = self.call(call, f, items, false)?;
        Ok(self.pool.is_root().then_some(values))
    }

    /// See [`MpiPool::starmap`].
    ///
    /// # Errors
    /// As there, also in what a panic of `f` does.
    ///
    /// ```
    /// # let pool = parpool_mpi::MpiPool::init()?;
    /// let powers = pool.chunksize(1).starmap(i32::pow, [(2, 3), (3, 2)])?;
    /// assert!(powers.is_none_or(|powers| powers == [8, 9]));
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    #[track_caller]
    pub fn starmap<I, F>(&self, f: F, items: I) -> Result<Option<Vec<F::Output>>, MpiError>
    where
        I: IntoIterator<Item: Portable>,
        F: Star<I::Item, Output: Portable> + Sync,
    {
        let call = Call::new::<(F, I::Item, F::Output)>("starmap", Location::caller());
        let values = self.call(call, |args| f.star(args), items, false)?;
        Ok(self.pool.is_root().then_some(values))
    }

    /// See [`MpiPool::map_all`].
    ///
    /// # Errors
    /// As there, also in what a panic of `f` does.
    ///
    /// ```
    /// # let pool = parpool_mpi::MpiPool::init()?;
    /// assert_eq!(pool.chunksize(2).map_all(|x: u32| x * x, 0..3)?, [0, 1, 4]);
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    #[track_caller]
    pub fn map_all<I, F, R>(&self, f: F, items: I) -> Result<Vec<R>, MpiError>
    where
        I: IntoIterator<Item: Portable>,
        F: Fn(I::Item) -> R + Sync,
        R: Portable,
    {
        let call = Call::new::<(F, I::Item, R)>("map_all", Location::caller());
        self.call(call, f, items, true)
    }

    /// See [`MpiPool::imap`].
    ///
    /// # Errors
    /// As there, also in what a panic of `f` does.
    ///
    /// ```
    /// # let pool = parpool_mpi::MpiPool::init()?;
    /// for square in pool.buffersize(10).imap(|x: u64| x * x, 0..100) {
    ///     println!("{}", square?);
    /// }
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    #[track_caller]
    pub fn imap<I, F, R>(&self, f: F, items: I) -> MpiImap<'p, I::IntoIter, R>
    where
        I: IntoIterator<Item: Portable>,
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        R: Portable,
    {
        let call = Call::new::<(F, I::Item, R)>("imap", Location::caller());
        self.stream(call, f, items, true)
    }

    /// See [`MpiPool::imap_unordered`].
    ///
    /// # Errors
    /// As there, also in what a panic of `f` does.
    ///
    /// ```
    /// # let pool = parpool_mpi::MpiPool::init()?;
    /// let count = pool.buffersize(10).imap_unordered(|x: u64| x * x, 0..100).count();
    /// assert_eq!(count, if pool.is_root() { 100 } else { 0 });
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    #[track_caller]
    pub fn imap_unordered<I, F, R>(&self, f: F, items: I) -> MpiImap<'p, I::IntoIter, R>
    where
        I: IntoIterator<Item: Portable>,
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        R: Portable,
    {
        let call = Call::new::<(F, I::Item, R)>("imap_unordered", Location::caller());
        self.stream(call, f, items, false)
    }

    fn check(&self) -> Result<(), MpiError> {
        let Settings { chunksize, buffersize } = self.settings;
        match (chunksize, buffersize) {
            (Some(0), _) => Err(Error::InvalidArgument("chunksize must be at least 1").into()),
            (_, Some(0)) => Err(Error::InvalidArgument("buffersize must be at least 1").into()),
            _ => Ok(()),
        }
    }

    /// A map: the values on rank 0, and on the others if they are for `all`; else none.
    pub(crate) fn call<I, F, R>(
        &self,
        call: Call,
        f: F,
        items: I,
        all: bool,
    ) -> Result<Vec<R>, MpiError>
    where
        I: IntoIterator<Item: Portable>,
        F: Fn(I::Item) -> R + Sync,
        R: Portable,
    {
        self.check()?;
        let mut core = self.pool.core()?;
        let head = core.begin(&call)?;
        let work = Work { f, each: false };
        let limit = Arc::new(AtomicUsize::new(usize::MAX));
        let (work, limit) = (&work, &limit);
        let mut parts = Vec::new();
        if self.pool.is_root() {
            let items = items.into_iter();
            self.pool.local.scope(|scope| {
                let (send, local) = channel();
                let compute = move |first, items| {
                    let send = send.clone();
                    // Its outcome comes by the channel.
                    let _handle = scope.apply_async(
                        move || {
                            let _gone = send.send((first, work.run(first, items, limit)));
                        },
                        (),
                    );
                };
                let limit = Arc::clone(limit);
                let compute = Box::new(compute);
                let set = self.settings;
                let mut root =
                    Root::new(core, (head, call), items, set, false, limit, compute, local);
                root.run();
                parts.extend(root.ready.drain(..).map(|(first, output)| (first, output.values)));
                let published = match all && root.is_well() {
                    true => parts.iter().try_for_each(|(first, part)| root.publish(*first, part)),
                    false => Ok(()),
                };
                root.finish(published.err())
            })?;
        } else {
            self.pool.local.scope(|scope| {
                let (send, answers) = channel();
                let spawn = move |message| {
                    let send = send.clone();
                    let _handle = scope.apply_async(
                        move || {
                            let _gone = send.send(task::answer(work, message, limit));
                        },
                        (),
                    );
                };
                let mut part = |header: Header, body: &[u8]| {
                    parts.push((header.first as usize, wire::unpack(body, header.count as usize)?));
                    Ok(())
                };
                serve(&mut core, &call, head, &spawn, &answers, limit, &mut part)
            })?;
        }
        parts.sort_unstable_by_key(|(first, _)| *first);
        let mut values = Vec::with_capacity(parts.iter().map(|(_, part)| part.len()).sum());
        parts.into_iter().for_each(|(_, mut part)| values.append(&mut part));
        Ok(values)
    }

    pub(crate) fn stream<I, F, R>(
        &self,
        call: Call,
        f: F,
        items: I,
        ordered: bool,
    ) -> MpiImap<'p, I::IntoIter, R>
    where
        I: IntoIterator<Item: Portable>,
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        R: Portable,
    {
        let begun = self.check().and_then(|()| {
            let mut core = self.pool.core()?;
            let head = core.begin(&call)?;
            Ok((core, head))
        });
        let (mut core, head) = match begun {
            Ok(begun) => begun,
            Err(error) => return MpiImap::refused(error),
        };
        let (local, settings) = (&self.pool.local, self.settings);
        let limit = Arc::new(AtomicUsize::new(usize::MAX));
        if !self.pool.is_root() {
            let job = Arc::new(Typed::<F, I::Item, R>::new(f, true));
            return MpiImap::serving(Box::new(move || {
                let (send, answers) = channel();
                let spawn = |message| {
                    let (send, job, limit) = (send.clone(), Arc::clone(&job), Arc::clone(&limit));
                    let answer = move || {
                        let _gone = send.send(task::Job::answer(&*job, message, &limit));
                    };
                    drop(local.apply_async(answer, ()));
                };
                serve(&mut core, &call, head, &spawn, &answers, &limit, &mut |_, _| Ok(()))
            }));
        }
        let work = Arc::new(Work { f, each: true });
        let (send, outputs) = channel();
        let shared = Arc::clone(&limit);
        let compute = move |first, items| {
            let (send, work, limit) = (send.clone(), Arc::clone(&work), Arc::clone(&shared));
            let run = move || {
                let _gone = send.send((first, work.run(first, items, &limit)));
            };
            drop(local.apply_async(run, ()));
        };
        let compute = Box::new(compute);
        let items = items.into_iter();
        let root = Root::new(core, (head, call), items, settings, true, limit, compute, outputs);
        MpiImap::handing_out(root, ordered)
    }
}

/// Serves one call of rank 0's, which is to be the one that this rank is in.
fn serve(
    core: &mut Core,
    call: &Call,
    head: Header,
    spawn: &dyn Fn(Vec<u8>),
    answers: &Receiver<Vec<u8>>,
    limit: &AtomicUsize,
    part: &mut Part<'_>,
) -> Result<(), MpiError> {
    let is_mine = |header: &Header| (header.call, header.what) == (head.call, head.what);
    let text = || call.text();
    let (is_mine, text) = (&is_mine, &text);
    let served = Serve { core: &mut *core, is_mine, text, spawn, answers, limit, part }.run()?;
    match served {
        Served::Call => Ok(()),
        Served::Bye => {
            let here = format!("rank {} is in {}", core.link.rank, call.text());
            let error = MpiError::Diverged(format!("rank 0 has left, while {here}"));
            core.remember(&error);
            Err(error)
        }
    }
}
