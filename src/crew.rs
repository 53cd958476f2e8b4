//! The threads, and the only lines that touch rayon's pools.
//!
//! A pool whose workers live for ever is one `rayon::ThreadPool` of `n` threads. Rayon cannot retire
//! one thread of a pool, so a pool whose workers are replaced is `n` rayon pools of one thread each: a
//! spent worker drops its own, which ends its thread, and starts its successor, which first waits until
//! the old thread is gone with its thread-locals. At no moment do more than `n` of them work.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use rayon::{ThreadBuilder, ThreadPool, ThreadPoolBuilder};

use crate::context::Context;
use crate::drainers::{Retired, Roster};
use crate::error::Error;
use crate::panic::discard;
use crate::sync::{Instant, lock};
use crate::worker::{self, Worker};
use crate::workers::Workers;

pub(crate) enum Crew {
    /// Gone, or not yet there.
    Retired,
    /// No threads: tasks run where they are submitted.
    Serial,
    /// One pool; rayon picks the thread that a drainer runs on.
    Lasting(Arc<ThreadPool>),
    /// One pool a place.
    Replaced {
        /// `None` where the worker is being replaced, or was lost.
        places: Vec<Option<Arc<ThreadPool>>>,
        /// The places without a drainer.
        idle: Vec<usize>,
        /// How many were lost.
        lost: usize,
    },
}

/// An idle worker, to be woken.
pub(crate) struct Starter {
    pool: Arc<ThreadPool>,
    drain: fn(&Arc<Workers>),
}

impl Starter {
    pub(crate) fn start(self, workers: &Arc<Workers>) {
        let (workers, drain) = (Arc::clone(workers), self.drain);
        self.pool.spawn(move || drain(&workers));
    }
}

impl Roster for Crew {
    type Starter = Starter;

    fn find_idle(&mut self) -> Result<Option<Starter>, Retired> {
        match self {
            Crew::Retired => Err(Retired),
            Crew::Serial => Ok(None),
            Crew::Lasting(pool) => {
                Ok(Some(Starter { pool: Arc::clone(pool), drain: drain_in_turn }))
            }
            Crew::Replaced { places, idle, .. } => {
                let pool = idle.pop().and_then(|index| places[index].clone());
                Ok(pool.map(|pool| Starter { pool, drain: drain_until_spent }))
            }
        }
    }

    fn rest(&mut self, index: usize) {
        if let Crew::Replaced { idle, .. } = self {
            idle.push(index);
        }
    }

    fn lose(&mut self, index: usize) -> bool {
        let Crew::Replaced { places, lost, .. } = self else { return false };
        places[index] = None;
        *lost += 1;
        *lost == places.len()
    }

    fn retire(&mut self) -> Option<Self> {
        (!self.is_retired()).then(|| std::mem::replace(self, Crew::Retired))
    }

    fn is_retired(&self) -> bool {
        matches!(self, Crew::Retired)
    }
}

/// Lets rayon code that waits for this thread run, if there is any.
pub(crate) fn give_way() {
    rayon::yield_now();
}

/// A drainer's job on a thread of a lasting pool.
fn drain_in_turn(workers: &Arc<Workers>) {
    let Some(worker) = worker::of(workers.id) else {
        unreachable!("rayon runs a pool's jobs on the pool's threads")
    };
    // A task of this worker waits for rayon code of its own and rayon has put this job on top of it.
    // The task's drainer is still there, and it goes on when that code is done; draining here would
    // keep it waiting for the whole queue.
    if worker.is_draining() {
        workers.drainers.decline(|crew| {
            if let Crew::Lasting(pool) = crew {
                call_all(pool, workers);
            }
        });
    } else {
        worker.draining(|| workers.drain(&worker));
    }
}

/// Asks each thread of a lasting pool to drain if it can. Nobody can take another's copy.
fn call_all(pool: &ThreadPool, workers: &Arc<Workers>) {
    let workers = Arc::clone(workers);
    pool.spawn_broadcast(move |_| {
        if let Some(worker) = worker::of(workers.id) {
            if workers.drainers.answer(!worker.is_draining()) {
                worker.draining(|| workers.drain(&worker));
            }
        }
    });
}

/// A drainer's job on a thread that may be replaced.
fn drain_until_spent(workers: &Arc<Workers>) {
    let Some(worker) = worker::of(workers.id) else {
        unreachable!("rayon runs a pool's jobs on the pool's threads")
    };
    worker.draining(|| workers.drain(&worker));
    if worker.is_spent() {
        // Ends the thread's main loop as soon as this job returns; `serve` goes on from there.
        let pool = workers.drainers.with_roster(|crew| match crew {
            Crew::Replaced { places, .. } => places[worker.index].take(),
            _ => None,
        });
        drop(pool);
    }
}

/// Starts the threads of `workers` and waits until each has run the initializer. On an error no
/// thread is left.
pub(crate) fn build(workers: &Arc<Workers>, context: &Context) -> Result<(), Error> {
    let (ready, started) = channel();
    lock(&workers.threads.handles).resize_with(workers.count, || None);
    let built = match workers.life {
        None => build_lasting(workers, context, ready),
        Some(_) => build_replaced(workers, context, ready),
    };
    // Ends when the last thread has reported: each holds a sender until then.
    let mut failed = started.into_iter().filter_map(Result::err);
    let first = failed.next();
    // An error may hold what panics when it is dropped.
    failed.for_each(discard);
    match (built, first) {
        (Ok(crew), None) => {
            if let Some(crew) = crew {
                workers.drainers.with_roster(|place| *place = crew);
            }
            Ok(())
        }
        (built, first) => {
            // Rayon's threads leave when their pool is dropped.
            let error = built.err().or(first);
            let handles = std::mem::take(&mut *lock(&workers.threads.handles));
            workers.drainers.with_roster(|crew| std::mem::replace(crew, Crew::Retired));
            for handle in handles.into_iter().flatten() {
                let _ = handle.join().map_err(discard);
            }
            Err(error.unwrap_or(Error::NotRunning))
        }
    }
}

type Ready = Sender<Result<(), Error>>;

/// How the thread of worker `index` is started.
fn thread(workers: &Workers, context: &Context, index: usize) -> thread::Builder {
    let name = format!("{}-{}-{index}", context.name, workers.id);
    let builder = thread::Builder::new().name(name);
    match context.stack_size {
        Some(bytes) => builder.stack_size(bytes),
        None => builder,
    }
}

fn pin(context: &Context, index: usize) {
    #[cfg(feature = "pin")]
    if context.pin {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        if !cores.is_empty() {
            core_affinity::set_for_current(cores[index % cores.len()]);
        }
    }
    #[cfg(not(feature = "pin"))]
    let _ = (context, index);
}

fn rayon_pool(threads: usize) -> ThreadPoolBuilder {
    // The panic of a `rayon::spawn` in the user's code: without a handler it aborts the process.
    ThreadPoolBuilder::new().num_threads(threads).panic_handler(discard)
}

fn build_lasting(
    workers: &Arc<Workers>,
    context: &Context,
    ready: Ready,
) -> Result<Option<Crew>, Error> {
    let mut refused = None;
    let pool = rayon_pool(workers.count).spawn_handler(|rayon_thread| {
        let (shared, context) = (Arc::clone(workers), context.clone());
        // Nobody waits for a thread that has nothing to say.
        let ready = workers.initializer.as_ref().map(|_| ready.clone());
        let (index, asked) = (rayon_thread.index(), Instant::now());
        let main = thread(workers, &context, index).spawn(move || {
            pin(&context, index);
            worker::be(Arc::new(Worker::new(shared.id, index, 0, None)), || {
                let initialized = shared.initialize(asked);
                let go_on = initialized.is_ok();
                let _ = ready.as_ref().map(|ready| ready.send(initialized));
                // Whoever builds waits for all senders to go.
                drop((ready, shared));
                if go_on {
                    rayon_thread.run();
                }
            });
        });
        match main {
            Ok(handle) => {
                lock(&workers.threads.handles)[index] = Some(handle);
                Ok(())
            }
            Err(error) => {
                let kind = error.kind();
                refused = Some(error);
                Err(kind.into())
            }
        }
    });
    let built = pool.build();
    match (built, refused) {
        (Ok(pool), _) => Ok(Some(Crew::Lasting(Arc::new(pool)))),
        (Err(_), Some(error)) => Err(Error::Start(error)),
        (Err(error), None) => Err(Error::Start(io::Error::other(error))),
    }
}

fn build_replaced(
    workers: &Arc<Workers>,
    context: &Context,
    ready: Ready,
) -> Result<Option<Crew>, Error> {
    workers.drainers.with_roster(|crew| {
        *crew = Crew::Replaced {
            places: (0..workers.count).map(|_| None).collect(),
            idle: (0..workers.count).collect(),
            lost: 0,
        };
    });
    for index in 0..workers.count {
        let place = Place {
            workers: Arc::clone(workers),
            context: context.clone(),
            index,
            generation: 0,
            asked: Instant::now(),
        };
        let ready = ready.clone();
        let main = thread(workers, context, index).spawn(move || place.serve(None, Some(ready)));
        match main {
            Ok(handle) => lock(&workers.threads.handles)[index] = Some(handle),
            Err(error) => return Err(Error::Start(error)),
        }
    }
    Ok(None)
}

/// One place of a pool that replaces its workers.
struct Place {
    workers: Arc<Workers>,
    context: Context,
    index: usize,
    generation: usize,
    /// When its thread was asked for.
    asked: Instant,
}

impl Place {
    /// The main function of the thread of one worker.
    ///
    /// `before` is the thread it replaces; `ready` hears of the first worker's start.
    fn serve(self, before: Option<JoinHandle<()>>, ready: Option<Ready>) {
        if let Some(before) = before {
            let _ = before.join().map_err(discard);
        }
        pin(&self.context, self.index);
        let id = self.workers.id;
        let worker = Arc::new(Worker::new(id, self.index, self.generation, self.workers.life));
        worker::be(Arc::clone(&worker), || {
            match (self.open(), ready) {
                (Ok(rayon_thread), ready) => {
                    match ready {
                        Some(ready) => drop(ready.send(Ok(()))),
                        // It takes the place of a drainer.
                        None => self.resume(),
                    }
                    // Returns when the pool is dropped, by a spent worker or when all work is done.
                    rayon_thread.run();
                }
                (Err(error), Some(ready)) => drop(ready.send(Err(error))),
                (Err(error), None) => self.workers.give_up(self.index, Some(error)),
            }
            // As the worker still: the tasks that it may have to skip run code of the user's.
            if worker.is_spent() {
                self.replace();
                worker.drop_values();
            }
        });
    }

    /// Runs the initializer and puts a rayon pool of this one thread into the place.
    fn open(&self) -> Result<ThreadBuilder, Error> {
        self.workers.initialize(self.asked)?;
        let mut body = None;
        let built = rayon_pool(1).spawn_handler(|rayon_thread| {
            body = Some(rayon_thread);
            Ok(())
        });
        let pool = built.build().map_err(|error| Error::Start(io::Error::other(error)))?;
        self.workers.drainers.with_roster(|crew| {
            if let Crew::Replaced { places, .. } = crew {
                places[self.index] = Some(Arc::new(pool));
            }
        });
        body.ok_or_else(|| Error::Start(io::Error::other("rayon asked for no thread")))
    }

    /// Goes on with the drainer of the worker before.
    fn resume(&self) {
        let workers = Arc::clone(&self.workers);
        self.workers.drainers.with_roster(|crew| {
            if let Crew::Replaced { places, .. } = crew {
                if let Some(pool) = &places[self.index] {
                    pool.spawn(move || drain_until_spent(&workers));
                }
            }
        });
    }

    /// Starts the successor of a spent worker, on whose thread this is the last thing that happens.
    fn replace(self) {
        let (workers, index) = (Arc::clone(&self.workers), self.index);
        if workers.drainers.needs_nobody() {
            return workers.give_up(index, None);
        }
        let next = Place { generation: self.generation + 1, asked: Instant::now(), ..self };
        // The lock is held until the new handle is in its place, so that `join` finds one of the two.
        let mut handles = lock(&workers.threads.handles);
        let before = handles[index].take();
        let main = thread(&workers, &next.context, index).spawn(move || next.serve(before, None));
        match main {
            Ok(handle) => handles[index] = Some(handle),
            Err(error) => {
                drop(handles);
                workers.give_up(index, Some(Error::Start(error)));
            }
        }
    }
}
