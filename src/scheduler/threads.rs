//! The threads, and the only lines that touch rayon's pools.
//!
//! A pool whose workers live as long as it does is one `rayon::ThreadPool` of `n` threads. Rayon cannot retire
//! one thread of a pool, so a pool whose workers are replaced is `n` rayon pools of one thread each: a
//! worker that has done its tasks drops its own, which ends its thread, and starts its successor, which first waits
//! until the old thread is gone with its thread-locals. At no moment do more than `n` of them work.
//!
//! A runner is started by a rayon job. Rayon may give that to a thread that is inside rayon code of a task; there
//! it is not run but passed on, first to a thread that sleeps, and if none takes it to the attendant (`scheduler/starts.rs`).

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use rayon::{ThreadBuilder, ThreadPool, ThreadPoolBuilder};

use super::context::Context;
use super::runners::IdleSet;
use super::shared::Shared;
use super::starts::{Next, Places, Route, Starter};
use super::worker::Worker;
use super::{stack, worker};
use crate::error::Error;
use crate::panic::discard;
use crate::sync::{Instant, lock};

pub(crate) type Threads = Places<Arc<ThreadPool>>;

impl Starter<Arc<ThreadPool>> {
    pub(crate) fn start(self, shared: &Arc<Shared>) {
        let shared = Arc::clone(shared);
        let start = Start { shared, route: Route::default() };
        spawn(&self.place, StartJob::Start(start));
    }
}

/// Lets rayon code that waits for this thread run, if there is any.
pub(crate) fn give_way() {
    rayon::yield_now();
}

// ---- jobs ----------------------------------------------------------------------------------------

/// What is spawned on a rayon pool.
enum StartJob {
    Start(Start),
    /// Measures where it runs, and inside of a rayon wait if `nested` is to be measured.
    Measure {
        pool: Option<Arc<ThreadPool>>,
        distances: Sender<(bool, usize)>,
    },
}

/// The start of a runner.
struct Start {
    shared: Arc<Shared>,
    route: Route,
}

/// The one place where jobs are given to rayon: what was measured for one is true of all.
fn spawn(pool: &ThreadPool, job: StartJob) {
    pool.spawn(move || run(job));
}

#[inline(never)]
fn run(job: StartJob) {
    let distance = stack::distance();
    match job {
        StartJob::Start(start) => start.run(stack::is_bottom(distance)),
        StartJob::Measure { pool, distances } => {
            let _ = distances.send((pool.is_none(), distance));
            if let Some(pool) = pool {
                spawn(&pool, StartJob::Measure { pool: None, distances });
                // Runs it here, in the smallest of all rayon waits.
                rayon::yield_now();
            }
        }
    }
}

/// The main function of each thread of rayon's. Not inlined: where it stands on the stack is what the
/// positions of jobs are measured from.
#[inline(never)]
fn main_loop(rayon_thread: ThreadBuilder) {
    let base = stack::set_base();
    std::hint::black_box(&base);
    rayon_thread.run();
    std::hint::black_box(&base);
}

impl Start {
    fn run(self, at_bottom: bool) {
        self.route.arrive();
        let shared = Arc::clone(&self.shared);
        let Some(worker) = shared.this_worker() else {
            unreachable!("rayon runs a pool's jobs on the pool's threads")
        };
        if !at_bottom {
            return self.pass_on(worker);
        }
        if shared.run_queue(worker) {
            worker.leave();
            // Ends the thread's main loop as soon as this job returns; `serve` goes on from there.
            let place = |threads: &mut Threads| threads.of(worker.index).and_then(Option::take);
            drop(shared.runners.with_idle(place));
        }
    }

    /// This thread is in rayon code of a task. Gives the start to a thread that sleeps: rayon wakes one for a new
    /// job, but this one would take it back before the other is awake, and so waits for that a moment.
    fn pass_on(self, worker: &Worker) {
        let Start { shared, route } = self;
        match route.pass_on(worker.index, shared.count, &shared.runners) {
            Some(Next { place, route, taken }) => {
                spawn(&place, StartJob::Start(Start { shared, route }));
                taken.wait();
            }
            None => shared.refuse_start(worker.index),
        }
    }
}

/// Measures, once in a process, how far from the base of its thread a job is at the bottom, and how far it is
/// inside of a rayon wait. On a rayon pool of one thread, in which nothing else runs.
fn calibrate() -> Result<(), Error> {
    if stack::is_calibrated() {
        return Ok(());
    }
    let mut handle = None;
    let built = rayon_pool(1).spawn_handler(|rayon_thread| {
        let small = thread::Builder::new().stack_size(1 << 18);
        handle = Some(small.spawn(move || main_loop(rayon_thread))?);
        Ok(())
    });
    let pool = Arc::new(built.build().map_err(|error| Error::start(io::Error::other(error)))?);
    let (send, distances) = channel();
    // From outside and from a job of its own, as starts come.
    for _ in 0..2 {
        spawn(&pool, StartJob::Measure { pool: Some(Arc::clone(&pool)), distances: send.clone() });
    }
    drop((send, pool));
    // Ends with the last job.
    let measured: Vec<(bool, usize)> = distances.iter().collect();
    if let Some(handle) = handle {
        let _ = handle.join().map_err(discard);
    }
    let of = |nested| -> Vec<usize> {
        let those = measured.iter().filter(|(other, _)| *other == nested);
        those.map(|(_, distance)| *distance).collect()
    };
    match stack::calibrate(&of(false), &of(true)) {
        true => Ok(()),
        false => Err(Error::start(io::Error::other(
            "it cannot be told where on the stack of a thread rayon runs a job",
        ))),
    }
}

/// Makes sure that there is an attendant; false if none can be started now.
pub(crate) fn start_attendant(shared: &Arc<Shared>) -> bool {
    let mut is_there = lock(&shared.threads.has_attendant);
    if *is_there {
        return true;
    }
    let (name, owned) = (format!("{}-attendant", shared.thread_name), Arc::clone(shared));
    let main = move || {
        let start = |starter: Starter<_>| starter.start(&owned);
        owned.threads.attendant.attend(&owned.runners, start);
        // If the pool went on one of its own workers, which nobody joins, this may be its last owner, and drops what the
        // initializer owns: code of the user's, which may panic and, for which the stack is a whole one, need room.
        discard(owned);
    };
    // If it fails, the next start that is refused tries again.
    if let Ok(handle) = thread::Builder::new().name(name).spawn(main) {
        lock(&shared.threads.handles).push(Some(handle));
        *is_there = true;
    }
    *is_there
}

// ---- start ---------------------------------------------------------------------------------------

/// Starts the threads of `shared` and waits until each has run the initializer. On an error no
/// thread is left.
pub(crate) fn build(shared: &Arc<Shared>, context: &Context) -> Result<(), Error> {
    calibrate()?;
    let (ready, started) = channel();
    lock(&shared.threads.handles).resize_with(shared.count, || None);
    let built = match shared.max_tasks {
        None => build_lasting(shared, context, ready),
        Some(_) => build_replaced(shared, context, ready),
    };
    // Ends when the last thread has reported: each holds a sender until then.
    let mut failed = started.into_iter().filter_map(Result::err);
    let first = failed.next();
    // An error may hold what panics when it is dropped.
    failed.for_each(discard);
    match (built, first) {
        (Ok(threads), None) => {
            if let Some(threads) = threads {
                shared.runners.with_idle(|place| *place = threads);
            }
            Ok(())
        }
        (built, first) => {
            // Rayon's threads leave when their pool is dropped.
            let error = built.err().or(first);
            let handles = std::mem::take(&mut *lock(&shared.threads.handles));
            let gone = shared.runners.with_idle(IdleSet::retire);
            drop(gone);
            for handle in handles.into_iter().flatten() {
                let _ = handle.join().map_err(discard);
            }
            Err(error.unwrap_or(Error::NotRunning))
        }
    }
}

type Ready = Sender<Result<(), Error>>;

/// How the thread of worker `index` is started.
fn thread(shared: &Shared, context: &Context, index: usize) -> thread::Builder {
    let name = format!("{}-{index}", shared.thread_name);
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
    shared: &Arc<Shared>,
    context: &Context,
    ready: Ready,
) -> Result<Option<Threads>, Error> {
    let mut refused = None;
    let pool = rayon_pool(shared.count).spawn_handler(|rayon_thread| {
        let (owned, context) = (Arc::clone(shared), context.clone());
        // Nobody waits for a thread that has nothing to say.
        let ready = shared.initializer.as_ref().map(|_| ready.clone());
        let (index, asked) = (rayon_thread.index(), Instant::now());
        let main = thread(shared, &context, index).spawn(move || {
            pin(&context, index);
            let _thread = worker::be_thread(&owned.places[index]);
            let initialized = owned.initialize(index, asked);
            let go_on = initialized.is_ok();
            let _ = ready.as_ref().map(|ready| ready.send(initialized));
            // The builder waits for all senders to go, and this thread must not keep the pool.
            drop((ready, owned));
            if go_on {
                main_loop(rayon_thread);
            }
        });
        match main {
            Ok(handle) => {
                lock(&shared.threads.handles)[index] = Some(handle);
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
        (Ok(pool), _) => Ok(Some(Threads::Lasting(Arc::new(pool)))),
        (Err(_), Some(error)) => Err(Error::start(error)),
        (Err(error), None) => Err(Error::start(io::Error::other(error))),
    }
}

fn build_replaced(
    shared: &Arc<Shared>,
    context: &Context,
    ready: Ready,
) -> Result<Option<Threads>, Error> {
    shared.runners.with_idle(|threads| *threads = Threads::replaced(shared.count));
    for index in 0..shared.count {
        let place = Place {
            shared: Arc::clone(shared),
            context: context.clone(),
            index,
            asked: Instant::now(),
        };
        let ready = ready.clone();
        let main = thread(shared, context, index).spawn(move || place.serve(None, Some(ready)));
        match main {
            Ok(handle) => lock(&shared.threads.handles)[index] = Some(handle),
            Err(error) => return Err(Error::start(error)),
        }
    }
    Ok(None)
}

/// One place of a pool that replaces its workers.
struct Place {
    shared: Arc<Shared>,
    context: Context,
    index: usize,
    /// When its thread was asked for.
    asked: Instant,
}

impl Place {
    /// The main function of the thread of one worker.
    ///
    /// `before` gives the thread that it replaces; `ready` hears of the first worker's start.
    fn serve(self, before: Option<Receiver<JoinHandle<()>>>, ready: Option<Ready>) {
        if let Some(Ok(before)) = before.map(|before| before.recv()) {
            let _ = before.join().map_err(discard);
        }
        pin(&self.context, self.index);
        let shared = Arc::clone(&self.shared);
        let worker = &shared.places[self.index];
        let _thread = worker::be_thread(worker);
        match (self.open(), ready) {
            (Ok(rayon_thread), ready) => {
                match ready {
                    Some(ready) => drop(ready.send(Ok(()))),
                    // It takes the place of a runner.
                    None => self.resume(),
                }
                // Returns when the pool is dropped, by a worker that has done its tasks or when all work is done.
                main_loop(rayon_thread);
                // As the worker still: the tasks that it may have to skip run code of the user's.
                if worker.has_left() {
                    worker.end_generation();
                    self.replace();
                }
            }
            (Err(error), Some(ready)) => drop(ready.send(Err(error))),
            (Err(error), None) => shared.give_up(self.index, error),
        }
    }

    /// Runs the initializer and puts a rayon pool of this one thread into the place.
    fn open(&self) -> Result<ThreadBuilder, Error> {
        self.shared.initialize(self.index, self.asked)?;
        let mut body = None;
        let built = rayon_pool(1).spawn_handler(|rayon_thread| {
            body = Some(rayon_thread);
            Ok(())
        });
        let pool = built.build().map_err(|error| Error::start(io::Error::other(error)))?;
        self.shared.runners.with_idle(|threads| {
            if let Some(place) = threads.of(self.index) {
                *place = Some(Arc::new(pool));
            }
        });
        body.ok_or_else(|| Error::start(io::Error::other("rayon asked for no thread")))
    }

    /// Goes on with the runner of the worker before.
    fn resume(&self) {
        let place = |threads: &mut Threads| threads.of(self.index).and_then(|place| place.clone());
        if let Some(place) = self.shared.runners.with_idle(place) {
            Starter { place }.start(&self.shared);
        }
    }

    /// Starts the successor of a worker, on whose thread this is the last thing that happens.
    fn replace(self) {
        let (shared, index) = (Arc::clone(&self.shared), self.index);
        if shared.leave(index) {
            return;
        }
        let next = Place { asked: Instant::now(), ..self };
        // The lock is held until the new handle is in its place, so that `join` finds one of the two: this one's stays
        // there if there is no successor.
        let mut handles = lock(&shared.threads.handles);
        let (hand_over, before) = channel();
        let main =
            thread(&shared, &next.context, index).spawn(move || next.serve(Some(before), None));
        match main {
            Ok(handle) => {
                // It waits for that.
                handles[index].replace(handle).map(|handle| hand_over.send(handle));
            }
            Err(error) => {
                drop(handles);
                shared.give_up(index, Error::start(error));
            }
        }
    }
}
