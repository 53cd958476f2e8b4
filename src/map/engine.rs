//! The engine of every blocking verb over items: workers claim blocks, run them, and write the
//! results in place.
//!
//! One worker is woken first. It calls the next one once it has worked for a moment and there is
//! more, and so on, so that a short map pays for one wake-up; the waiting caller calls all of them
//! if the first item takes long.
//!
//! An item that fails moves `stop` down to its index. What lies above and has not begun is skipped,
//! what lies below is still done, for it may fail too and then wins.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Duration;

use super::chunk_size::{BatchSizer, ChunkPolicy, SLICE, look};
use super::idle::{Idle, IdleWorkers};
use super::items::{Begun, Items, IterGuard};
use super::leftovers::{Leftover, Leftovers};
use super::source::{Block, Claim, ClaimRequest, Out, Source};
use crate::error::{Error, TryError};
use crate::observe::Observer;
use crate::panic::{Panic, Payload, catch, discard};
use crate::raw::{self, BorrowedJob, Job, OutputRun};
use crate::scheduler::{Cancellable, Shared, Task, Worker, park, worker};
use crate::sync::{Instant, Mutex, lock};
use crate::task::CallContext;

/// How long the caller waits before it calls every worker: longer than a short map takes, and short
/// beside the first item if that is what it waits for.
const RECRUIT_ALL_AFTER: Duration = Duration::from_micros(50);

/// How long a worker works alone before it calls another: about what it takes to wake one.
const RECRUIT_NEXT_AFTER: Duration = Duration::from_micros(10);

/// The message where a parallel iterator breaks its word: it must give as many items as its `len` says, and
/// a part of it as many as were asked for.
pub(crate) const FEWER: &str = "the input gave fewer items than it said it has";
pub(crate) const MORE: &str = "the input gave more items than it said it has";

/// Who has workers come to a map.
pub(crate) trait Recruit {
    /// Has one more worker come.
    fn call(&self);
    /// Has one of those come back who left because there was nothing to claim: the `owner` of the
    /// map, or anyone.
    fn call_back(&self, owner: bool);
}

/// What a map has besides the results in place.
pub(crate) struct Overflow<R, E> {
    /// Results that had no place, by the index of their first.
    pub(crate) grown: Vec<(usize, Vec<R>)>,
    pub(crate) outcome: Result<(), TryError<E>>,
}

/// Why an item has no result.
enum Failure<E> {
    Item(E),
    Panic(Payload),
}

/// One map that is going on.
pub(crate) struct Engine<'r, S: Source<'r, R>, F, R, E> {
    f: F,
    source: S,
    policy: ChunkPolicy,
    context: Arc<CallContext>,
    /// How many workers can be of use.
    helpers: usize,
    /// How many were called, the first among them.
    called: AtomicUsize,
    /// How many have come.
    came: AtomicUsize,
    /// The workers that left because there was nothing to claim, and were not called back.
    idle: IdleWorkers,
    /// To iterate over the input, before `f` is called, was seen to be expensive.
    costly_input: AtomicBool,
    /// Items from this index on are skipped.
    stop: AtomicUsize,
    timed_out: AtomicBool,
    leftovers: Leftovers<'r, S::Items, R>,
    totals: Mutex<Totals<'r, R, E>>,
}

/// What the workers have done.
struct Totals<'r, R, E> {
    runs: Vec<OutputRun<'r, R>>,
    grown: Vec<(usize, Vec<R>)>,
    /// The failure with the lowest index.
    failure: Option<(usize, Failure<E>)>,
}

/// For how long a worker takes part in a map that has more for it to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stay {
    /// It is the owner, whose task the map is a part of.
    ToTheEnd,
    /// Until it is to be replaced.
    UntilSpent,
    /// It is to be replaced and cannot be just now.
    ForOneBlock,
}

/// One worker's part in a map.
struct WorkerRun<'e, 'r, R> {
    observer: Option<Observer<'e>>,
    slot: usize,
    sizer: BatchSizer,
    /// Calls another worker as soon as it has claimed something. Not before: an input that blocks
    /// shall not gather workers.
    eager: bool,
    /// The last block was one that had been given back.
    in_spares: bool,
    joined: Instant,
    now: Instant,
    runs: Vec<OutputRun<'r, R>>,
    grown: Vec<(usize, Vec<R>)>,
}

impl<R> WorkerRun<'_, '_, R> {
    /// All items of the block below `next` are finished.
    fn reach(&mut self, next: usize) {
        if let Some(observer) = &mut self.observer {
            observer.reach(next, self.now);
        }
    }
}

impl<'r, S, F, R, E> Engine<'r, S, F, R, E>
where
    S: Source<'r, R>,
    F: Fn(<S::Items as Items>::Item) -> Result<R, E> + Sync,
    R: Send,
    E: Send,
{
    pub(crate) fn new(
        f: F,
        context: Arc<CallContext>,
        source: S,
        policy: ChunkPolicy,
        len: Option<usize>,
    ) -> Self {
        let tasks = len.map_or(usize::MAX, |len| len.div_ceil(policy.unit));
        Engine {
            helpers: tasks.min(context.shared.count),
            f,
            source,
            policy,
            context,
            called: AtomicUsize::new(1),
            came: AtomicUsize::new(0),
            idle: IdleWorkers::new(),
            costly_input: AtomicBool::new(false),
            stop: AtomicUsize::new(usize::MAX),
            timed_out: AtomicBool::new(false),
            leftovers: Leftovers::new(),
            totals: Mutex::new(Totals { runs: Vec::new(), grown: Vec::new(), failure: None }),
        }
    }

    /// Has the workers do it and waits for them. A caller that is a worker is one of them.
    pub(crate) fn run(self) -> (Vec<OutputRun<'r, R>>, Overflow<R, E>) {
        let shared = &self.context.shared;
        let mut refused = None;
        if shared.is_serial {
            // Its worker is replaced between two chunks, but not under a task that has called this, nor under one
            // of another thread: then it goes on for a chunk at a time.
            match shared.enter_serially() {
                Ok(entry) => {
                    let mut stay =
                        if entry.is_nested() { Stay::ToTheEnd } else { Stay::UntilSpent };
                    loop {
                        entry.call(|worker| self.share(worker, None, false, stay));
                        if !self.has_work() {
                            break;
                        }
                        let replaced = entry.replace_worker();
                        stay = if replaced { Stay::UntilSpent } else { Stay::ForOneBlock };
                    }
                }
                Err(error) => refused = Some(error),
            }
        } else if let Some(worker) = shared.this_worker() {
            if let Some(_open) = shared.keep_open(worker) {
                let loan = raw::lend(&self, |loan| {
                    self.take_part(worker, loan);
                    Arc::clone(loan)
                });
                Lending { loan: &loan, shared }.withdraw();
            } else {
                refused = Some(shared.refusal());
            }
        } else if self.helpers > 0 {
            let (outcome, loan) = raw::lend(&self, |loan| (self.watch(loan), Arc::clone(loan)));
            Lending { loan: &loan, shared }.withdraw();
            refused = outcome.err();
        }
        // A worker may have done it all before the pool was ended and the call refused.
        let refused = refused.filter(|_| self.has_work());
        self.finish(refused)
    }

    /// Works, as a worker whose task this map is a part of, until all is done.
    fn take_part(&self, worker: &Worker, loan: &Arc<BorrowedJob>) {
        self.came.fetch_add(1, Ordering::Relaxed);
        let caller = Lending { loan, shared: &self.context.shared };
        loop {
            self.idle.return_owner();
            self.share(worker, Some(&caller), true, Stay::ToTheEnd);
            let mut idle = false;
            // Woken by the last worker to leave, and by `call_back` when there is something to claim.
            park::until(None, |waker| {
                idle = loan.poll_idle(waker);
                idle || !self.idle.is_owner_idle()
            });
            if idle && !self.has_work() {
                return;
            }
        }
    }

    /// Waits, as somebody outside the pool, until all is done or the time is up.
    fn watch(&self, loan: &Arc<BorrowedJob>) -> Result<(), Error> {
        let shared = &self.context.shared;
        let caller = Lending { loan, shared };
        caller.submit()?;
        // Woken by the last worker to leave, and by `terminate`.
        let done = |waker: &Waker| loan.poll_idle(waker) && !self.has_work();
        if shared.wait(park::deadline(RECRUIT_ALL_AFTER), done) {
            return Ok(());
        }
        while self.call_next(&caller) {}
        if !shared.wait(self.context.deadline, done) {
            self.time_is_up();
        }
        Ok(())
    }

    /// Does a share on a worker, for a map that nobody waits for in here.
    pub(crate) fn join(&self, worker: &Worker, caller: &dyn Recruit) {
        let stay = if worker.should_retire() { Stay::ForOneBlock } else { Stay::UntilSpent };
        self.share(worker, Some(caller), true, stay);
    }

    /// Calls another worker, if one can be of use.
    fn call_next(&self, caller: &dyn Recruit) -> bool {
        // ORDERING: bounds a number of calls; one too many finds nothing to do.
        let call = self.called.load(Ordering::Relaxed) < self.helpers && self.has_work();
        if call {
            self.called.fetch_add(1, Ordering::Relaxed);
            caller.call();
        }
        call
    }

    /// Items from here on are not wanted.
    fn stop(&self) -> usize {
        if self.context.shared.is_terminated() {
            return 0;
        }
        // ORDERING: what it guards, the failure, is read under a lock; seeing it late costs work.
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether anything is left that nobody is doing. Exact when nobody is at it.
    pub(crate) fn has_work(&self) -> bool {
        let stop = self.stop();
        self.source.has_more(stop) || self.leftovers.has_more(stop)
    }

    fn check_time(&self, now: Instant) {
        if self.context.deadline.is_some_and(|deadline| now >= deadline) {
            self.time_is_up();
        }
    }

    fn time_is_up(&self) {
        self.timed_out.store(true, Ordering::Relaxed);
        self.stop.store(0, Ordering::Relaxed);
    }

    fn fail(&self, index: usize, failure: Failure<E>) {
        self.stop.fetch_min(index, Ordering::Relaxed);
        let mut totals = lock(&self.totals);
        let other = match &totals.failure {
            Some((lowest, _)) if *lowest <= index => Some((index, failure)),
            _ => totals.failure.replace((index, failure)),
        };
        drop(totals);
        discard(other);
    }

    /// Works until there is nothing to claim, or until the worker does not `stay`.
    fn share(&self, worker: &Worker, caller: Option<&dyn Recruit>, eager: bool, mut stay: Stay) {
        let now = Instant::now();
        let mut worker_run = WorkerRun {
            observer: self.context.observe(worker),
            slot: worker.index,
            sizer: BatchSizer::new(),
            eager,
            in_spares: false,
            joined: now,
            now,
            runs: Vec::new(),
            grown: Vec::new(),
        };
        worker::in_task(Arc::clone(&self.context) as Arc<dyn Cancellable>, || {
            while stay != Stay::UntilSpent || !worker.should_retire() {
                self.check_time(worker_run.now);
                let asked = worker_run.observer.as_ref().and_then(Observer::clock);
                let owner = stay == Stay::ToTheEnd;
                let claimed =
                    self.idle.claim(owner, |patient| self.claim(&mut worker_run, patient));
                let Some(block) = claimed else { break };
                if stay == Stay::ForOneBlock {
                    stay = Stay::UntilSpent;
                }
                worker.count();
                if let Some(caller) = caller {
                    if std::mem::take(&mut worker_run.eager) {
                        self.call_next(caller);
                    }
                    self.call_back(caller);
                }
                let Block { start, items, out } = block;
                if let Some(observer) = &mut worker_run.observer {
                    observer.took_input(asked);
                    observer.begin(start);
                }
                self.context.caller.in_chunk(start, items.len(), || match items {
                    Leftover::Items(items) => {
                        let block = Block { start, items, out };
                        self.run_block(block, Leftover::Items, &mut worker_run, caller);
                    }
                    Leftover::Taken(items) => {
                        let block = Block { start, items, out };
                        self.run_block(block, Leftover::Taken, &mut worker_run, caller);
                    }
                });
                if let Some(observer) = &mut worker_run.observer {
                    observer.end();
                }
            }
        });
        // The last items are counted before the worker is seen to leave.
        drop(worker_run.observer.take());
        let mut totals = lock(&self.totals);
        totals.runs.append(&mut worker_run.runs);
        totals.grown.append(&mut worker_run.grown);
    }

    /// The next block to run. What was given back comes first, for it is known to be expensive.
    fn claim(
        &self,
        worker_run: &mut WorkerRun<'_, 'r, R>,
        patient: bool,
    ) -> Claim<Block<'r, Leftover<S::Items>, R>> {
        let stop = self.stop();
        let spare_fit = if worker_run.in_spares {
            worker_run.sizer.slice_items()
        } else {
            BatchSizer::new().slice_items()
        };
        if let Some(block) = self.leftovers.claim(self.policy, spare_fit, stop) {
            if !worker_run.in_spares {
                (worker_run.in_spares, worker_run.sizer) = (true, BatchSizer::new());
            }
            return Claim::Block(block);
        }
        worker_run.in_spares = false;
        let claim = self.source.claim(&ClaimRequest {
            slot: worker_run.slot,
            policy: self.policy,
            slice_items: worker_run.sizer.slice_items(),
            stop,
            patient,
            fault: &|index, payload| self.fail(index, Failure::Panic(payload)),
        });
        match claim {
            Claim::Block(Block { start, items, out }) => {
                Claim::Block(Block { start, items: Leftover::Items(items), out })
            }
            Claim::Busy => Claim::Busy,
            Claim::Empty => Claim::Empty,
        }
    }

    /// Calls one back that left while there was nothing to claim, if there is now.
    fn call_back(&self, caller: &dyn Recruit) {
        if let Some(idle) = self.idle.notify(|| self.has_work()) {
            caller.call_back(idle == Idle::Owner);
        }
    }

    /// With how many items to begin at once, of those that fit a slice, where others may want some of them:
    /// what is begun can be given away only as far as it is taken out.
    fn portion(&self, slice: usize) -> usize {
        match self.costly_input.load(Ordering::Relaxed) {
            true => look(slice),
            false => (slice / 4).max(16),
        }
    }

    /// Runs the items of a block, in slices of time and, within these, from look to look. `left` is
    /// how some of them are given back.
    fn run_block<I>(
        &self,
        mut block: Block<'r, I, R>,
        left: fn(I) -> Leftover<S::Items>,
        worker_run: &mut WorkerRun<'_, 'r, R>,
        caller: Option<&dyn Recruit>,
    ) where
        I: Items<Item = <S::Items as Items>::Item>,
    {
        let nobody = IdleWorkers::new();
        // What calls workers that are to have what others could do.
        let mut sharing = caller.filter(|_| self.policy.divisible);
        let mut begun: Option<Begun<I>> = None;
        'block: loop {
            let begun_left = begun.as_ref().map_or(0, |begun| begun.left);
            let slice = worker_run.sizer.slice_items().min(begun_left + block.items.len());
            if slice == 0 {
                break;
            }
            let since = worker_run.now;
            let mut done = 0;
            while done < slice {
                if block.start >= self.stop() {
                    break 'block;
                }
                let begun = match &mut begun {
                    Some(begun) if begun.left > 0 => begun,
                    over => {
                        let len = block.items.len();
                        let count = sharing.map_or(len, |_| self.portion(slice).min(len));
                        match catch(|| block.items.begin(count)) {
                            Ok(begun) => {
                                discard(over.take());
                                over.insert(begun)
                            }
                            Err(payload) => {
                                self.fail(block.start, Failure::Panic(payload));
                                break 'block;
                            }
                        }
                    }
                };
                let all = (slice - done).min(begun.left);
                let idle = if sharing.is_some() { &self.idle } else { &nobody };
                let mut pause = Pause { idle, since, skip: 0 };
                let before = block.out.len();
                let result = catch(|| {
                    let mut held = IterGuard::new(&mut begun.iter);
                    let Some(iter) = held.get() else { return Ok(false) };
                    loop {
                        let looked = block.out.len();
                        let count = look(slice).min(all - (looked - before));
                        let paused = match worker_run.sizer.is_tiny() {
                            true => block.out.extend(count, iter, &self.f).map(|()| false)?,
                            false => {
                                block.out.extend_until(count, iter, &self.f, || pause.is_due())?
                            }
                        };
                        let at = block.start + (block.out.len() - before);
                        if let Some(observer) = &mut worker_run.observer {
                            observer.look(at);
                        }
                        let short = block.out.len() - looked < count;
                        if paused || short || at == block.start + all || at >= self.stop() {
                            return Ok(paused);
                        }
                    }
                });
                let written = block.out.len() - before;
                block.start += written;
                begun.left -= written;
                done += written;
                let paused = matches!(result, Ok(Ok(true)));
                if paused {
                    // Somebody is idle and shall have the rest. What cannot be given away, this one does.
                    worker_run.sizer.learn(done, since.elapsed());
                    self.give_back(&mut block, begun, left, worker_run, caller);
                    sharing = None;
                }
                let failure = match result {
                    Ok(Ok(true)) => None,
                    Ok(Ok(false)) if written == all || block.start >= self.stop() => None,
                    Ok(Ok(false)) => Some(Failure::Panic(Box::new(FEWER))),
                    Ok(Err(error)) => Some(Failure::Item(error)),
                    Err(payload) => Some(Failure::Panic(payload)),
                };
                let failure = match failure {
                    None if begun.left == 0 => match begun.exceeds() {
                        Ok(false) => None,
                        Ok(true) => Some(Failure::Panic(Box::new(MORE))),
                        Err(payload) => Some(Failure::Panic(payload)),
                    },
                    failure => failure,
                };
                if let Some(failure) = failure {
                    self.fail(block.start, failure);
                    break 'block;
                }
                if paused {
                    continue 'block;
                }
            }
            worker_run.now = Instant::now();
            worker_run.sizer.learn(done, worker_run.now - since);
            worker_run.reach(block.start);
            self.check_time(worker_run.now);
            // A map that is over sooner than another worker wakes is not worth waking it.
            if let Some(caller) =
                caller.filter(|_| worker_run.now - worker_run.joined >= RECRUIT_NEXT_AFTER)
            {
                self.call_next(caller);
            }
        }
        discard(begun);
        discard(block.items);
        self.keep(block.start, block.out, worker_run);
    }

    /// Leaves the rest of a block to the workers that are idle: the items that can be taken out of `begun` in a
    /// moment, and those that are not begun. What is left is the part of `begun` that is left.
    ///
    /// Where to iterate is as expensive as `f`, taking all out would be to do the work of the others.
    fn give_back<I>(
        &self,
        block: &mut Block<'r, I, R>,
        begun: &mut Begun<I>,
        left: fn(I) -> Leftover<S::Items>,
        worker_run: &mut WorkerRun<'_, 'r, R>,
        caller: Option<&dyn Recruit>,
    ) where
        I: Items<Item = <S::Items as Items>::Item>,
    {
        let drained = begun.drain(Instant::now() + SLICE);
        let middle = block.start + drained.items.len();
        let end = middle + begun.left;
        if let Err(payload) = drained.end {
            self.fail(middle, Failure::Panic(payload));
        }
        let mut room = block.out.take_rest();
        let room_of_drained = room.split_front(drained.items.len());
        let own_room = room.split_front(begun.left);
        self.leftovers.push(Block { start: end, items: left(block.items.take_rest()), out: room });
        let items = Leftover::Taken(drained.items);
        self.leftovers.push(Block { start: block.start, items, out: room_of_drained });
        let out = std::mem::replace(&mut block.out, own_room);
        self.keep(block.start, out, worker_run);
        block.start = middle;
        if begun.left > 0 {
            // ORDERING: a hint.
            self.costly_input.store(true, Ordering::Relaxed);
        }
        if let Some(observer) = &mut worker_run.observer {
            observer.end();
            match begun.left {
                0 => observer.skip(middle),
                _ => observer.begin(middle),
            }
        }
        // What comes next is not late for the time that this took.
        worker_run.now = Instant::now();
        // It calls the next when it has claimed something.
        if let Some(caller) = caller {
            self.call_back(caller);
        }
    }

    /// Keeps the results of the items before `end`.
    fn keep(&self, end: usize, out: Out<'r, R>, worker_run: &mut WorkerRun<'_, 'r, R>) {
        worker_run.reach(end);
        let base = end - out.len();
        match out {
            Out::InPlace(run) => {
                let run = match worker_run.runs.last_mut() {
                    Some(last) => last.append(run).err(),
                    None => Some(run),
                };
                worker_run.runs.extend(run);
            }
            // Nothing, where a block was given back before its first item.
            Out::Grown(vec) if vec.is_empty() => {}
            Out::Grown(vec) => worker_run.grown.push((base, vec)),
        }
    }

    /// What came of it.
    pub(crate) fn finish(self, refused: Option<Error>) -> (Vec<OutputRun<'r, R>>, Overflow<R, E>) {
        let Totals { runs, grown, failure } =
            self.totals.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let timed_out =
            || self.timed_out.load(Ordering::Relaxed).then_some(Error::DeadlineExceeded);
        let ended =
            refused.or_else(|| self.context.stop_reason()).or_else(timed_out).map(TryError::Pool);
        let (ended, unused) = match (ended, failure) {
            (Some(error), failure) => (Some(error), failure),
            (None, Some((index, Failure::Item(error)))) => {
                (Some(TryError::Item { index, error }), None)
            }
            (None, Some((index, Failure::Panic(payload)))) => {
                let panic = Panic::new(payload, Some(index));
                (Some(TryError::Pool(Error::Panicked(panic))), None)
            }
            (None, None) => (None, None),
        };
        discard(unused);
        discard(self.source);
        discard(self.leftovers);
        discard(self.f);
        if let Some(error) = ended {
            discard(runs);
            discard(grown);
            return (Vec::new(), Overflow { grown: Vec::new(), outcome: Err(error) });
        }
        (runs, Overflow { grown, outcome: Ok(()) })
    }
}

/// Whether a worker shall leave the rest of its block to somebody idle, asked after every item or two.
struct Pause<'e> {
    idle: &'e IdleWorkers,
    /// When the slice began.
    since: Instant,
    /// How many items to go before the clock is read again.
    skip: u32,
}

impl Pause<'_> {
    /// True once, if somebody is idle and the slice takes longer than it was thought to.
    ///
    /// For the sake of tiny items this is a load and a branch, until somebody is idle; then the clock
    /// is read now and then.
    #[inline]
    fn is_due(&mut self) -> bool {
        self.idle.is_any() && self.is_late()
    }

    #[cold]
    fn is_late(&mut self) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.skip = 16;
        self.since.elapsed() >= 2 * SLICE
    }
}

impl Task for BorrowedJob {
    fn run(self: Arc<Self>, worker: &Worker) {
        self.join(worker);
    }

    /// Its owner waits for no more than those who are inside.
    fn skip(self: Arc<Self>, _: Error) {}
}

/// Calls workers to a map that somebody waits for.
struct Lending<'l> {
    loan: &'l Arc<BorrowedJob>,
    shared: &'l Arc<Shared>,
}

impl Lending<'_> {
    fn submit(&self) -> Result<(), Error> {
        let ticket = self.shared.submit(Arc::clone(self.loan) as Arc<dyn Task>)?;
        lock(&self.loan.tickets).push(ticket, self.shared.count);
        Ok(())
    }

    /// Takes out of the queue what nobody has come for: the map is over.
    fn withdraw(&self) {
        let tickets = std::mem::take(&mut *lock(&self.loan.tickets));
        self.shared.skip_queued(tickets);
    }
}

impl Recruit for Lending<'_> {
    fn call(&self) {
        // Refused only when the threads are gone. Then the caller is no worker of theirs, and
        // the first call, in `watch`, was refused too or has been answered.
        let _ = self.submit();
    }

    fn call_back(&self, owner: bool) {
        match owner {
            true => self.loan.wake_owner(),
            false => self.call(),
        }
    }
}

impl<'r, S, F, R, E> Job for Engine<'r, S, F, R, E>
where
    S: Source<'r, R>,
    F: Fn(<S::Items as Items>::Item) -> Result<R, E> + Sync,
    R: Send,
    E: Send,
{
    fn work(&self, loan: &Arc<BorrowedJob>, worker: &Worker) {
        let caller = Lending { loan, shared: &self.context.shared };
        // The first to come works before it calls: the map may be over sooner than another wakes.
        // Those that come later came because it is not.
        let eager = self.came.fetch_add(1, Ordering::Relaxed) > 0;
        self.share(worker, Some(&caller), eager, Stay::UntilSpent);
        if worker.should_retire() && self.has_work() {
            caller.call();
        }
    }
}
