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
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::task::Waker;
use std::time::Duration;

use crate::chunk::{Cut, Pace, SLICE, look};
use crate::error::{Error, TryError};
use crate::panic::{Panic, Payload, catch, discard};
use crate::queue::Task;
use crate::raw::{self, Job, Loan, Run};
use crate::source::{Ask, Batch, Block, Claim, Items, Out, Source};
use crate::spare::{Left, Spares};
use crate::sync::{Instant, Mutex, lock};
use crate::terms::Terms;
use crate::wait;
use crate::watch::Observer;
use crate::worker::{self, Cancellable, Worker};
use crate::workers::Workers;

/// How long the caller waits before it calls every worker: longer than a short map takes, and short
/// beside the first item if that is what it waits for.
const PATIENCE: Duration = Duration::from_micros(50);

/// How long a worker works alone before it calls another: about what it takes to wake one.
const WORTH: Duration = Duration::from_micros(10);

/// Who has workers come to a map.
pub(crate) trait Caller {
    /// Has one more worker come.
    fn call(&self);
    /// Has one of those come back who left because there was nothing to claim: the `owner` of the
    /// map, or anyone.
    fn call_back(&self, owner: bool);
}

/// What a map has besides the results in place.
pub(crate) struct Rest<R, E> {
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
    cut: Cut,
    terms: Arc<Terms>,
    /// How many workers can be of use.
    helpers: usize,
    /// How many were called, the first among them.
    called: AtomicUsize,
    /// How many have come.
    came: AtomicUsize,
    /// How many workers left because there was nothing to claim, and were not called back.
    hungry: AtomicUsize,
    /// One of them is the owner of the map, who waits for all the others.
    owner_left: AtomicBool,
    /// Items from this index on are skipped.
    stop: AtomicUsize,
    timed_out: AtomicBool,
    spares: Spares<'r, S::Items, R>,
    tally: Mutex<Tally<'r, R, E>>,
}

/// What the workers have done.
struct Tally<'r, R, E> {
    runs: Vec<Run<'r, R>>,
    grown: Vec<(usize, Vec<R>)>,
    /// The failure with the lowest index.
    failure: Option<(usize, Failure<E>)>,
}

/// One worker's part in a map.
struct Shift<'e, 'r, R> {
    observer: Option<Observer<'e>>,
    seat: usize,
    pace: Pace,
    /// Calls another worker as soon as it has claimed something. Not before: an input that blocks
    /// shall not gather workers.
    eager: bool,
    /// The last block was one that had been given back.
    in_spares: bool,
    joined: Instant,
    now: Instant,
    runs: Vec<Run<'r, R>>,
    grown: Vec<(usize, Vec<R>)>,
}

impl<R> Shift<'_, '_, R> {
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
    pub(crate) fn new(f: F, terms: Arc<Terms>, source: S, cut: Cut, len: Option<usize>) -> Self {
        let tasks = len.map_or(usize::MAX, |len| len.div_ceil(cut.unit));
        Engine {
            helpers: tasks.min(terms.workers.count),
            f,
            source,
            cut,
            terms,
            called: AtomicUsize::new(1),
            came: AtomicUsize::new(0),
            hungry: AtomicUsize::new(0),
            owner_left: AtomicBool::new(false),
            stop: AtomicUsize::new(usize::MAX),
            timed_out: AtomicBool::new(false),
            spares: Spares::new(),
            tally: Mutex::new(Tally { runs: Vec::new(), grown: Vec::new(), failure: None }),
        }
    }

    /// Has the workers do it and waits for them. A caller that is a worker is one of them.
    pub(crate) fn run(self) -> (Vec<Run<'r, R>>, Rest<R, E>) {
        let workers = &self.terms.workers;
        let mut refused = None;
        if workers.is_serial {
            // Its worker is replaced between two chunks, but not under a task that has called this.
            match workers.enter_serially() {
                Ok(entry) => loop {
                    entry.call(|worker| self.share(worker, None, false, entry.is_nested()));
                    if !self.has_work() {
                        break;
                    }
                    entry.replace_worker();
                },
                Err(error) => refused = Some(error),
            }
        } else if let Some(worker) = workers.this_worker() {
            let loan = raw::lend(&self, |loan| {
                self.take_part(worker, loan);
                Arc::clone(loan)
            });
            Lending { loan: &loan, workers }.withdraw();
        } else if self.helpers > 0 {
            let (outcome, loan) = raw::lend(&self, |loan| (self.watch(loan), Arc::clone(loan)));
            Lending { loan: &loan, workers }.withdraw();
            refused = outcome.err();
        }
        // A worker may have done it all before the pool was ended and the call refused.
        let refused = refused.filter(|_| self.has_work());
        self.finish(refused)
    }

    /// Works, as a worker whose task this map is a part of, until all is done.
    fn take_part(&self, worker: &Worker, loan: &Arc<Loan>) {
        self.came.fetch_add(1, Ordering::Relaxed);
        let caller = Lending { loan, workers: &self.terms.workers };
        loop {
            if self.owner_left.swap(false, Ordering::Relaxed) {
                self.take_hungry();
            }
            self.share(worker, Some(&caller), true, true);
            let mut idle = false;
            // Woken by the last worker to leave, and by `call_back` when there is something to claim.
            wait::until(None, |waker| {
                idle = loan.poll_idle(waker);
                idle || !self.owner_left.load(Ordering::Relaxed)
            });
            if idle && !self.has_work() {
                return;
            }
        }
    }

    /// Waits, as somebody outside the pool, until all is done or the time is up.
    fn watch(&self, loan: &Arc<Loan>) -> Result<(), Error> {
        let workers = &self.terms.workers;
        let caller = Lending { loan, workers };
        caller.submit()?;
        // Woken by the last worker to leave, and by `terminate`.
        let done = |waker: &Waker| loan.poll_idle(waker) && !self.has_work();
        if workers.wait(wait::deadline(PATIENCE), done) {
            return Ok(());
        }
        while self.call_next(&caller) {}
        if !workers.wait(self.terms.deadline, done) {
            self.time_is_up();
        }
        Ok(())
    }

    /// Does a share on a worker, for a map that nobody waits for in here.
    pub(crate) fn join(&self, worker: &Worker, caller: &dyn Caller) {
        self.share(worker, Some(caller), true, false);
    }

    /// Calls another worker, if one can be of use.
    fn call_next(&self, caller: &dyn Caller) -> bool {
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
        if self.terms.workers.is_terminated() {
            return 0;
        }
        // ORDERING: what it guards, the failure, is read under a lock; seeing it late costs work.
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether anything is left that nobody is doing. Exact when nobody is at it.
    pub(crate) fn has_work(&self) -> bool {
        let stop = self.stop();
        self.source.has_more(stop) || self.spares.has_more(stop)
    }

    fn check_time(&self, now: Instant) {
        if self.terms.deadline.is_some_and(|deadline| now >= deadline) {
            self.time_is_up();
        }
    }

    fn time_is_up(&self) {
        self.timed_out.store(true, Ordering::Relaxed);
        self.stop.store(0, Ordering::Relaxed);
    }

    fn fail(&self, index: usize, failure: Failure<E>) {
        self.stop.fetch_min(index, Ordering::Relaxed);
        let mut tally = lock(&self.tally);
        let other = match &tally.failure {
            Some((lowest, _)) if *lowest <= index => Some((index, failure)),
            _ => tally.failure.replace((index, failure)),
        };
        drop(tally);
        discard(other);
    }

    /// Works until there is nothing to claim, or the worker is spent and does not go `on`.
    fn share(&self, worker: &Worker, caller: Option<&dyn Caller>, eager: bool, on: bool) {
        let now = Instant::now();
        let mut shift = Shift {
            observer: self.terms.observe(worker),
            seat: worker.index,
            pace: Pace::new(),
            eager,
            in_spares: false,
            joined: now,
            now,
            runs: Vec::new(),
            grown: Vec::new(),
        };
        worker::in_task(Arc::clone(&self.terms) as Arc<dyn Cancellable>, || {
            while on || !worker.should_retire() {
                self.check_time(shift.now);
                let asked = shift.observer.as_ref().and_then(Observer::clock);
                let mut claim = self.claim(&mut shift, true);
                if !matches!(claim, Claim::Block(_)) {
                    // `on`, it is the owner.
                    self.owner_left.fetch_or(on, Ordering::Relaxed);
                    self.hungry.fetch_add(1, Ordering::Relaxed);
                }
                if matches!(claim, Claim::Busy) {
                    claim = self.claim_at_last(&mut shift, on);
                }
                let Claim::Block(block) = claim else { break };
                worker.count();
                if let Some(caller) = caller {
                    if std::mem::take(&mut shift.eager) {
                        self.call_next(caller);
                    }
                    self.feed(caller);
                }
                let Block { start, items, out } = block;
                if let Some(observer) = &mut shift.observer {
                    observer.took_input(asked);
                    observer.begin(start);
                }
                self.terms.caller.in_chunk(start, items.len(), || match items {
                    Left::Items(items) => {
                        let block = Block { start, items, out };
                        self.run_block(block, Left::Items, &mut shift, caller);
                    }
                    Left::Taken(items) => {
                        let block = Block { start, items, out };
                        self.run_block(block, Left::Taken, &mut shift, caller);
                    }
                });
                if let Some(observer) = &mut shift.observer {
                    observer.end();
                }
            }
        });
        // The last items are counted before the worker is seen to leave.
        drop(shift.observer.take());
        let mut tally = lock(&self.tally);
        tally.runs.append(&mut shift.runs);
        tally.grown.append(&mut shift.grown);
    }

    /// The next block to run. What was given back comes first, for it is known to be dear.
    fn claim(
        &self,
        shift: &mut Shift<'_, 'r, R>,
        patient: bool,
    ) -> Claim<Block<'r, Left<S::Items>, R>> {
        let stop = self.stop();
        let spare_fit = if shift.in_spares { shift.pace.fit() } else { Pace::new().fit() };
        if let Some(block) = self.spares.claim(self.cut, spare_fit, stop) {
            if !shift.in_spares {
                (shift.in_spares, shift.pace) = (true, Pace::new());
            }
            return Claim::Block(block);
        }
        shift.in_spares = false;
        let claim = self.source.claim(&Ask {
            seat: shift.seat,
            cut: self.cut,
            fit: shift.pace.fit(),
            stop,
            patient,
            fault: &|index, payload| self.fail(index, Failure::Panic(payload)),
        });
        match claim {
            Claim::Block(Block { start, items, out }) => {
                Claim::Block(Block { start, items: Left::Items(items), out })
            }
            Claim::Busy => Claim::Busy,
            Claim::Empty => Claim::Empty,
        }
    }

    /// Claims once more, as one who counts as hungry by now. Whoever was in the iterator either has
    /// left it, so that this finds it free, or will see that somebody is hungry.
    fn claim_at_last(
        &self,
        shift: &mut Shift<'_, 'r, R>,
        owner: bool,
    ) -> Claim<Block<'r, Left<S::Items>, R>> {
        // ORDERING: pairs with the fence of `Pulled::claim`: the count above is seen there, or the
        // lock is seen free here.
        fence(Ordering::SeqCst);
        let claim = self.claim(shift, false);
        let stays = matches!(claim, Claim::Block(_));
        // An owner who was called back meanwhile is counted out. Of others it is not known who: whoever
        // comes in answer to that call comes in this one's place.
        if stays && (!owner || self.owner_left.swap(false, Ordering::Relaxed)) {
            self.take_hungry();
        }
        claim
    }

    /// Calls somebody back who left while there was nothing for him and there is now.
    fn feed(&self, caller: &dyn Caller) {
        if self.hungry.load(Ordering::Relaxed) > 0 && self.has_work() && self.take_hungry() {
            self.call_back(caller);
        }
    }

    /// Counts one out of those who left, who is to be called back.
    fn take_hungry(&self) -> bool {
        // ORDERING (of both): the items are handed over under locks. Who comes in vain leaves again.
        let less = |hungry: usize| hungry.checked_sub(1);
        self.hungry.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn call_back(&self, caller: &dyn Caller) {
        caller.call_back(self.owner_left.swap(false, Ordering::Relaxed));
    }

    /// Runs the items of a block, in slices of time and, within these, from look to look. `left` is
    /// how some of them are given back.
    fn run_block<I>(
        &self,
        mut block: Block<'r, I, R>,
        left: fn(I) -> Left<S::Items>,
        shift: &mut Shift<'_, 'r, R>,
        caller: Option<&dyn Caller>,
    ) where
        I: Items<Item = <S::Items as Items>::Item>,
    {
        static NOBODY: AtomicUsize = AtomicUsize::new(0);
        let first = block.start;
        let base = first - block.out.len();
        let hungry = if caller.is_some() && self.cut.divisible { &self.hungry } else { &NOBODY };
        while block.items.len() > 0 {
            let slice = shift.pace.fit().min(block.items.len());
            let begun = shift.now;
            let mut done = 0;
            while done < slice {
                if block.start >= self.stop() {
                    return self.keep(base, block, shift);
                }
                let count = look(slice).min(slice - done);
                let end = block.start + count;
                let mut pause = Pause { hungry, begun, skip: 0 };
                let mut taken = None;
                let run = || {
                    let items = block.items.take(count);
                    match shift.pace.is_tiny() {
                        true => block.out.extend(items, &self.f),
                        false => {
                            block.out.extend_until(items, &self.f, || pause.is_due(), &mut taken)
                        }
                    }
                };
                let result = catch(run);
                block.start = base + block.out.len();
                if let Some(observer) = &mut shift.observer {
                    observer.look(block.start);
                }
                match (result, taken) {
                    (Ok(Ok(())), None) => done += count,
                    // Somebody is idle and shall have the rest; taking it out may have panicked.
                    (result, Some(taken)) => {
                        if let Err(payload) = result {
                            self.fail(block.start + taken.len(), Failure::Panic(payload));
                        }
                        self.give_back(&mut block, taken, end, left, shift, caller);
                        return self.keep(base, block, shift);
                    }
                    (Ok(Err(error)), None) => {
                        self.fail(block.start, Failure::Item(error));
                        return self.keep(base, block, shift);
                    }
                    (Err(payload), None) => {
                        self.fail(block.start, Failure::Panic(payload));
                        return self.keep(base, block, shift);
                    }
                }
            }
            shift.now = Instant::now();
            shift.pace.learn(done, shift.now - begun);
            shift.reach(block.start);
            self.check_time(shift.now);
            // A map that is over sooner than another worker wakes is not worth waking it.
            if let Some(caller) = caller.filter(|_| shift.now - shift.joined >= WORTH) {
                self.call_next(caller);
            }
        }
        self.keep(base, block, shift);
    }

    /// Leaves the rest of a block to whoever is idle: the items that were `taken` out, and those from
    /// index `end` on, which were not.
    fn give_back<I: Items>(
        &self,
        block: &mut Block<'r, I, R>,
        taken: Vec<I::Item>,
        end: usize,
        left: fn(I) -> Left<S::Items>,
        shift: &mut Shift<'_, 'r, R>,
        caller: Option<&dyn Caller>,
    ) where
        S::Items: Items<Item = I::Item>,
    {
        let mut room = block.out.take_rest();
        let taken_room = room.split_front(end - block.start);
        self.spares.push(Block { start: end, items: left(block.items.take_rest()), out: room });
        let taken = Left::Taken(Batch::from(taken));
        self.spares.push(Block { start: block.start, items: taken, out: taken_room });
        // What comes next is not late for the time that this took.
        shift.now = Instant::now();
        // He calls the next when he has claimed something.
        if let (Some(caller), true) = (caller, self.take_hungry()) {
            self.call_back(caller);
        }
    }

    /// Keeps the results of a block; what of its items is left is dropped.
    fn keep<I>(&self, base: usize, block: Block<'r, I, R>, shift: &mut Shift<'_, 'r, R>) {
        shift.reach(block.start);
        discard(block.items);
        match block.out {
            Out::InPlace(run) => {
                let run = match shift.runs.last_mut() {
                    Some(last) => last.append(run).err(),
                    None => Some(run),
                };
                shift.runs.extend(run);
            }
            // Nothing, where a block was given back before its first item.
            Out::Grown(vec) if vec.is_empty() => {}
            Out::Grown(vec) => shift.grown.push((base, vec)),
        }
    }

    /// What came of it.
    pub(crate) fn finish(self, refused: Option<Error>) -> (Vec<Run<'r, R>>, Rest<R, E>) {
        let Tally { runs, grown, failure } =
            self.tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let timed_out = || self.timed_out.load(Ordering::Relaxed).then_some(Error::Timeout);
        let ended = refused.or_else(|| self.terms.ended()).or_else(timed_out).map(TryError::Pool);
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
        discard(self.spares);
        discard(self.f);
        if let Some(error) = ended {
            discard(runs);
            discard(grown);
            return (Vec::new(), Rest { grown: Vec::new(), outcome: Err(error) });
        }
        (runs, Rest { grown, outcome: Ok(()) })
    }
}

/// Whether a worker shall leave the rest of its block to somebody idle, asked after every item or two.
struct Pause<'e> {
    hungry: &'e AtomicUsize,
    begun: Instant,
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
        // ORDERING: whoever sees it late gives back later.
        self.hungry.load(Ordering::Relaxed) > 0 && self.is_late()
    }

    #[cold]
    fn is_late(&mut self) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.skip = 16;
        self.begun.elapsed() >= 2 * SLICE
    }
}

impl Task for Loan {
    fn run(self: Arc<Self>, worker: &Worker) {
        self.join(worker);
    }

    /// Its owner waits for no more than those who are inside.
    fn skip(self: Arc<Self>, _: Error) {}
}

/// Calls workers to a map that somebody waits for.
struct Lending<'l> {
    loan: &'l Arc<Loan>,
    workers: &'l Arc<Workers>,
}

impl Lending<'_> {
    fn submit(&self) -> Result<(), Error> {
        let ticket = self.workers.submit(Arc::clone(self.loan) as Arc<dyn Task>)?;
        lock(&self.loan.tickets).push(ticket, self.workers.count);
        Ok(())
    }

    /// Takes out of the queue what nobody has come for: the map is over.
    fn withdraw(&self) {
        let tickets = std::mem::take(&mut *lock(&self.loan.tickets));
        self.workers.skip_queued(tickets);
    }
}

impl Caller for Lending<'_> {
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
    fn work(&self, loan: &Arc<Loan>, worker: &Worker) {
        let caller = Lending { loan, workers: &self.terms.workers };
        // The first to come works before it calls: the map may be over sooner than another wakes.
        // Those that come later came because it is not.
        let eager = self.came.fetch_add(1, Ordering::Relaxed) > 0;
        self.share(worker, Some(&caller), eager, false);
        if worker.should_retire() && self.has_work() {
            caller.call();
        }
    }
}
