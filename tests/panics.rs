//! The panic matrix: every place where the user's code can panic, in every verb, on every kind of
//! pool, while the pool runs and while it ends. Each call has its outcome, each value is dropped
//! once, and the pool goes on or ends as it should.
//!
//! In each cell one value is dangerous. A panic on top of a panic ends the process by Rust's own
//! rule, with a pool and without: a `Vec` of two values whose `Drop` panics cannot be dropped
//! anywhere.

mod common;

use std::cell::RefCell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::pin::Pin;
use std::process::{Command, Output};
use std::sync::{Arc, LazyLock, Weak};
use std::task::{Context, RawWaker, RawWakerVTable, Wake, Waker};
use std::thread;
use std::time::Duration;

use crossbeam_channel::unbounded;
use parpool::{AsyncResult, Error, Imap, Pool, TryError, WorkerLocal, current_worker};
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use common::{
    ALL, Counted, Counter, Drops, Kind, LONG, ON_PURPOSE, Opener, Uncut, all_pools,
    assert_no_threads, at_the_end, fewer, hold, message, quiet, scaled, square, watchdog,
};

// ---- the table -----------------------------------------------------------------------------------

/// What panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Task,
    /// What the task panics with, when it is dropped.
    Payload,
    ClosureDrop,
    ItemDrop,
    /// The result of one item, while another item fails; or the result that the caller is given.
    ResultDrop,
    /// The input, when it is to make an item.
    InputNext,
    InputDrop,
    /// The input, when a worker begins with its part: rayon's `map_init`.
    InputInit,
    /// The input, when it is cut for the workers: rayon's `map_with`.
    InputSplit,
    Callback,
    /// Of a task that panics too.
    ErrorCallback,
    LocalInit,
    LocalDrop,
    WakerWake,
    WakerDrop,
    /// When a handle is polled.
    WakerClone,
    /// When what a poll has cloned is cloned again.
    WakerCloneAgain,
    /// These four: where a worker is replaced.
    Initializer,
    InitializerPayload,
    InitargsClone,
    InitargsDrop,
}

use Fault::*;

const INITIALIZERS: [Fault; 4] = [Initializer, InitializerPayload, InitargsClone, InitargsDrop];

const WAKERS: [Fault; 4] = [WakerWake, WakerDrop, WakerClone, WakerCloneAgain];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Map,
    MapInto,
    Starmap,
    TryMap,
    Apply,
    Install,
    ApplyAsync,
    MapAsync,
    StarmapAsync,
    Imap,
    ImapUnordered,
    ScopeApply,
    ScopeMap,
    ScopeImap,
    ScopeImapUnordered,
}

const SINGLE: [Verb; 4] = [Verb::Apply, Verb::Install, Verb::ApplyAsync, Verb::ScopeApply];

const BLOCKING: [Verb; 6] =
    [Verb::Map, Verb::MapInto, Verb::Starmap, Verb::TryMap, Verb::Apply, Verb::Install];

const HANDLES: [Verb; 5] =
    [Verb::ApplyAsync, Verb::MapAsync, Verb::StarmapAsync, Verb::ScopeApply, Verb::ScopeMap];

const STREAMS: [Verb; 4] =
    [Verb::Imap, Verb::ImapUnordered, Verb::ScopeImap, Verb::ScopeImapUnordered];

/// What happens to the pool, or to the handle, meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Closed while the work waits; by the work itself where nobody else can.
    Closing,
    /// Terminated while the work waits.
    Terminating,
    /// Terminated by the item that then panics.
    TerminatingWithin,
    /// The handle or the stream is dropped while the work waits.
    Abandoned,
}

use Phase::*;

const PHASES: [Phase; 5] = [Running, Closing, Terminating, TerminatingWithin, Abandoned];

#[derive(Clone, Copy, Debug)]
struct Cell {
    fault: Fault,
    verb: Verb,
    kind: Kind,
    phase: Phase,
}

const ITEMS: usize = 6;

impl Cell {
    /// Whether there is such a thing.
    fn exists(self) -> bool {
        let fault = match self.fault {
            InputDrop => !self.is_single(),
            // What makes no first item cannot have the first item do anything.
            InputNext => !self.is_single() && self.phase != TerminatingWithin,
            InputInit | InputSplit => {
                let parallel = [Verb::Map, Verb::MapInto, Verb::TryMap, Verb::MapAsync];
                (parallel.contains(&self.verb) || self.verb == Verb::ScopeMap)
                    && self.phase != TerminatingWithin
            }
            // The handles of a scope have none.
            Callback | ErrorCallback => HANDLES[..3].contains(&self.verb),
            // On a serial pool, a handle is ready before anybody can poll it.
            fault if WAKERS.contains(&fault) => self.has_handle() && self.kind != Kind::Serial,
            fault if INITIALIZERS.contains(&fault) => {
                self.phase == Running && !matches!(self.kind, Kind::Lasting(_))
            }
            _ => true,
        };
        fault && (self.is_held() || !matches!(self.phase, Terminating | Abandoned))
    }

    /// Whether the workers are held while the call is made.
    fn is_held(self) -> bool {
        let waits = !BLOCKING.contains(&self.verb) && self.kind != Kind::Serial;
        waits && !INITIALIZERS.contains(&self.fault)
    }

    /// A serial pool whose worker is replaced by itself.
    fn is_renewed(self) -> bool {
        let matters = self.fault == LocalDrop || INITIALIZERS.contains(&self.fault);
        matters && self.kind == Kind::Serial
    }

    fn is_single(self) -> bool {
        SINGLE.contains(&self.verb)
    }

    fn has_handle(self) -> bool {
        HANDLES.contains(&self.verb)
    }

    fn is_stream(self) -> bool {
        STREAMS.contains(&self.verb)
    }

    /// The items are taken out of a collection when it is submitted.
    fn is_collected(self) -> bool {
        matches!(self.kind, Kind::Replaced(..)) && self.has_handle() && !self.is_single()
    }

    /// A serial stream pulls the second item when the first was handed out; and by then is closed.
    fn has_one_item(self) -> bool {
        self.is_single() || self.is_stream() && self.phase == Closing && self.kind == Kind::Serial
    }

    /// The index of the item that panics.
    fn at(self) -> usize {
        if self.has_one_item() || self.phase == TerminatingWithin { 0 } else { 2 }
    }

    /// What the work, if it is done, gives for the item of this index.
    fn of_item(self, index: usize) -> String {
        let last = index == ITEMS - 1;
        let panics = match self.fault {
            Task | Payload | ItemDrop | LocalInit | ErrorCallback | InputNext => index == self.at(),
            ResultDrop => last,
            ClosureDrop => self.is_single(),
            _ => false,
        };
        match panics {
            true => panicked((!self.is_single()).then_some(index)),
            false => VALUE.to_owned(),
        }
    }

    /// The outcome of the call; of a stream, those that come one by one.
    fn expected(self) -> Vec<String> {
        let at_once = self.fault == InputInit && self.is_collected();
        match self.phase {
            Abandoned => return Vec::new(),
            Terminating | TerminatingWithin if !at_once => return vec![TERMINATED.to_owned()],
            _ => {}
        }
        if self.is_stream() {
            let items = if self.fault == InputNext { self.at() + 1 } else { ITEMS };
            let items = if self.has_one_item() { 1 } else { items };
            let mut all: Vec<_> = (0..items).map(|index| self.of_item(index)).collect();
            if self.has_one_item() && self.fault != InputNext {
                all.push(String::from("NotRunning"));
            }
            return all;
        }
        let first = match self.fault {
            InputSplit if self.is_collected() => VALUE.to_owned(),
            InputInit | InputSplit => panicked(Some(0)),
            _ if self.is_single() => self.of_item(0),
            _ => (0..ITEMS).map(|i| self.of_item(i)).find(|o| *o != VALUE).unwrap_or(VALUE.into()),
        };
        vec![first]
    }

    fn check(self, mut outcomes: Vec<String>) {
        if self.is_stream() && self.phase == TerminatingWithin {
            // What was done before may be handed out before it.
            outcomes.retain(|outcome| *outcome == TERMINATED);
            assert!(outcomes.len() <= 1, "{outcomes:?}");
            return;
        }
        let mut expected = self.expected();
        let races = self.is_single() && self.has_handle() && self.phase == TerminatingWithin;
        if races && outcomes == [self.of_item(0)] && outcomes != [VALUE] {
            // The panic of a task that began is its outcome, unless somebody was told before.
            return;
        }
        outcomes.sort();
        expected.sort();
        assert_eq!(outcomes, expected);
    }
}

// ---- what panics ---------------------------------------------------------------------------------

/// A value that is counted, and panics when it is dropped if it is armed.
struct Bomb {
    index: usize,
    armed: bool,
    _counted: Counted,
}

impl Bomb {
    fn new(drops: &Drops, index: usize, armed: bool) -> Self {
        Bomb { index, armed, _counted: drops.make(index) }
    }

    /// A method, so that a closure that calls it captures all of the value.
    fn is_armed(&self) -> bool {
        self.armed
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        // A test that fails drops it too, and is not to end all.
        assert!(!self.armed || thread::panicking(), "{ON_PURPOSE}: dropped");
    }
}

/// Drops what this thread was given, and survives it.
fn let_go<T>(value: T) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
}

const VALUE: &str = "a value";
const TERMINATED: &str = "Terminated";

fn panicked(index: Option<usize>) -> String {
    format!("a panic at {index:?}")
}

fn seen<T>(result: Result<T, Error>) -> String {
    let text = match &result {
        Ok(_) => VALUE.to_owned(),
        Err(Error::Panicked(panic)) => panicked(panic.index()),
        Err(Error::Initializer(_)) => format!("{Initializer:?}"),
        Err(error) => format!("{error:?}"),
    };
    let_go(result);
    text
}

/// The closure of all calls.
struct Work {
    cell: Cell,
    // Weak, so that no worker has to drop the pool.
    pool: Weak<Pool>,
    local: Arc<Local>,
    drops: Drops,
    _own: Bomb,
}

impl Work {
    fn run(&self, item: Bomb) -> Bomb {
        let index = item.index;
        if let (0, Some(pool)) = (index, self.pool.upgrade()) {
            self.cell.phase.end(&pool);
        }
        let here = index == self.cell.at();
        match self.cell.fault {
            Task | ErrorCallback if here => panic!("{ON_PURPOSE}"),
            Payload if here => panic_any(Bomb::new(&self.drops, index, true)),
            LocalInit | LocalDrop if here => self.local.with(|_| ()),
            ResultDrop if index == ITEMS - 1 => panic!("{ON_PURPOSE}"),
            _ => {}
        }
        // What panics on the way out of a closure leaks the result (rust-lang/rust#47949): so the item
        // goes first; and what a closure gives that is then dropped is not counted.
        drop(item);
        static UNCOUNTED: LazyLock<Drops> = LazyLock::new(Drops::default);
        let leaks = self.cell.fault == ClosureDrop && self.cell.is_single();
        let drops = if leaks { &*UNCOUNTED } else { &self.drops };
        Bomb::new(drops, index, self.cell.fault == ResultDrop && here)
    }
}

impl Phase {
    fn end(self, pool: &Pool) {
        match self {
            Closing => pool.close(),
            Terminating | TerminatingWithin => pool.terminate(),
            Running | Abandoned => {}
        }
    }
}

/// An iterator that says how often it was asked.
struct Input {
    items: std::vec::IntoIter<Bomb>,
    panics_at: Option<usize>,
    asked: Counter,
    _own: Bomb,
}

impl Iterator for Input {
    type Item = Bomb;

    fn next(&mut self) -> Option<Bomb> {
        self.asked.add();
        let item = self.items.next()?;
        assert_ne!(Some(item.index), self.panics_at, "{ON_PURPOSE}");
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.items.size_hint()
    }
}

struct Alarm {
    wake_panics: bool,
    _own: Bomb,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        assert!(!self.wake_panics, "{ON_PURPOSE}");
    }
}

static CLONES_NEVER: RawWakerVTable =
    RawWakerVTable::new(|_| panic!("{ON_PURPOSE}"), |_| (), |_| (), |_| ());

static CLONES_ONCE: RawWakerVTable =
    RawWakerVTable::new(|data| RawWaker::new(data, &CLONES_NEVER), |_| (), |_| (), |_| ());

#[expect(unsafe_code, reason = "no safe waker panics when it is cloned")]
fn raw_waker(table: &'static RawWakerVTable) -> Waker {
    // SAFETY: the functions of both tables use no data.
    unsafe { Waker::new(std::ptr::null(), table) }
}

/// What an initializer gets and does.
struct Args {
    fault: Fault,
    /// From this generation of workers on.
    from: usize,
    drops: Drops,
    _own: Bomb,
}

impl Args {
    fn new(fault: Fault, from: usize, drops: &Drops) -> Self {
        Args { fault, from, drops: drops.clone(), _own: Bomb::new(drops, 0, false) }
    }

    fn is_due(&self, fault: Fault) -> bool {
        let generation = current_worker().expect("the initializer runs on a worker").generation();
        self.fault == fault && generation >= self.from
    }

    fn use_them(self) {
        assert!(!self.is_due(Initializer), "{ON_PURPOSE}");
        if self.is_due(InitializerPayload) {
            panic_any(Bomb::new(&self.drops, 0, true));
        }
    }
}

impl Clone for Args {
    fn clone(&self) -> Self {
        assert!(!self.is_due(InitargsClone), "{ON_PURPOSE}");
        let own = Bomb::new(&self.drops, 0, self.is_due(InitargsDrop));
        Args { fault: self.fault, from: self.from, drops: self.drops.clone(), _own: own }
    }
}

// ---- one cell ------------------------------------------------------------------------------------

struct Trial {
    cell: Cell,
    held: RefCell<Option<(Opener, Vec<AsyncResult<()>>)>>,
    pool: Arc<Pool>,
    local: Arc<Local>,
    drops: Drops,
    asked: Counter,
    called: Counter,
}

type Local = WorkerLocal<Bomb, Box<dyn Fn() -> Bomb + Send + Sync>>;

impl Trial {
    fn new(cell: Cell) -> Self {
        let drops = Drops::default();
        let make = drops.clone();
        let local: Local = WorkerLocal::new(Box::new(move || {
            assert!(cell.fault != LocalInit, "{ON_PURPOSE}");
            Bomb::new(&make, 0, true)
        }));
        let mut builder = cell.kind.builder();
        if INITIALIZERS.contains(&cell.fault) {
            builder = builder.initializer(Args::use_them, (Args::new(cell.fault, 1, &drops),));
        }
        if cell.is_renewed() {
            builder = builder.max_tasks_per_child(2);
        }
        let pool = Arc::new(builder.build().unwrap());
        let (asked, called) = Default::default();
        Trial { cell, held: None.into(), pool, local: Arc::new(local), drops, asked, called }
    }

    fn bomb(&self, index: usize, fault: Fault) -> Bomb {
        Bomb::new(&self.drops, index, self.cell.fault == fault)
    }

    fn work(&self) -> Work {
        Work {
            cell: self.cell,
            pool: Arc::downgrade(&self.pool),
            local: Arc::clone(&self.local),
            drops: self.drops.clone(),
            _own: self.bomb(0, ClosureDrop),
        }
    }

    fn items(&self) -> Vec<Bomb> {
        let items = if self.cell.is_single() { 1 } else { ITEMS };
        let armed = |i| self.cell.fault == ItemDrop && i == self.cell.at();
        (0..items).map(|i| Bomb::new(&self.drops, i, armed(i))).collect()
    }

    fn input(&self) -> Input {
        let panics_at = (self.cell.fault == InputNext).then_some(self.cell.at());
        let (items, asked) = (self.items().into_iter(), self.asked.clone());
        Input { items, panics_at, asked, _own: self.bomb(0, InputDrop) }
    }

    /// Calls the verb and says what came of it.
    fn call(&self) -> Vec<String> {
        if self.cell.is_held() {
            *self.held.borrow_mut() = Some(hold(&self.pool, self.cell.kind.workers()));
        }
        // The window holds all items.
        let options = self.pool.buffersize(64);
        let work = self.work();
        let get = AsyncResult::get;
        /// A closure for one item, and for one that is wrapped.
        macro_rules! f {
            () => {
                move |item| work.run(item)
            };
        }
        /// The call with the input that the fault needs.
        macro_rules! with_input {
            (|$input:ident| $call:expr) => {
                match self.cell.fault {
                    InputNext | InputDrop => {
                        let $input = self.input();
                        $call
                    }
                    InputInit => {
                        let init = || -> () { panic!("{ON_PURPOSE}") };
                        let $input = self.items().into_par_iter().map_init(init, |_, item| item);
                        $call
                    }
                    InputSplit => {
                        let $input = self.items().into_par_iter().map_with(Uncut, |_, item| item);
                        $call
                    }
                    _ => {
                        let $input = self.items();
                        $call
                    }
                }
            };
        }
        let tuples = || self.input().map(|item| (item,));
        let one = || self.items().remove(0);
        match self.cell.verb {
            Verb::Map => with_input!(|input| vec![seen(options.map(f!(), input))]),
            Verb::MapInto => with_input!(|input| {
                let mut out = vec![self.bomb(0, Task), self.bomb(1, Task)];
                out.iter_mut().for_each(|old| old.armed = false);
                vec![seen(options.map_into(f!(), input, &mut out).map(|()| out))]
            }),
            Verb::Starmap => vec![seen(options.starmap(f!(), tuples()))],
            Verb::TryMap => with_input!(|input| {
                let f = move |item| Ok::<_, Error>(work.run(item));
                vec![seen(options.try_map(f, input).map_err(|error| match error {
                    TryError::Pool(error) | TryError::Item { error, .. } => error,
                }))]
            }),
            Verb::Apply => vec![seen(options.apply(f!(), (one(),)))],
            Verb::Install => {
                let item = one();
                vec![seen(self.pool.install(move || work.run(item)))]
            }
            Verb::ApplyAsync => {
                self.finish(self.with_callback(options.apply_async(f!(), (one(),))), get)
            }
            Verb::MapAsync => with_input!(|input| {
                self.finish(self.with_callback(options.map_async(f!(), input)), AsyncResult::get)
            }),
            Verb::StarmapAsync => {
                let handle = options.starmap_async(f!(), tuples());
                self.finish(self.with_callback(handle), AsyncResult::get)
            }
            Verb::Imap => self.drain(options.imap(f!(), self.input())),
            Verb::ImapUnordered => self.drain(options.imap_unordered(f!(), self.input())),
            Verb::ScopeApply => options.scope(|scope| {
                self.finish(scope.apply_async(f!(), (one(),)), |handle| handle.get())
            }),
            Verb::ScopeMap => options.scope(|scope| {
                with_input!(|input| {
                    self.finish(scope.map_async(f!(), input), |handle| handle.get())
                })
            }),
            Verb::ScopeImap => options.scope(|scope| self.drain(scope.imap(f!(), self.input()))),
            Verb::ScopeImapUnordered => {
                options.scope(|scope| self.drain(scope.imap_unordered(f!(), self.input())))
            }
        }
    }

    fn with_callback<T: 'static>(&self, handle: AsyncResult<T>) -> AsyncResult<T> {
        let (own, called) = (self.bomb(0, Callback), self.called.clone());
        let call = move || {
            called.add();
            assert!(!own.is_armed(), "{ON_PURPOSE}");
        };
        match self.cell.fault {
            Callback => handle.callback(move |_| call()),
            ErrorCallback => handle.error_callback(move |_| {
                call();
                panic!("{ON_PURPOSE}");
            }),
            _ => handle,
        }
    }

    /// The outcome of a handle.
    fn finish<T, H>(&self, mut handle: H, get: impl FnOnce(H) -> Result<T, Error>) -> Vec<String>
    where
        H: Future<Output = Result<T, Error>> + Unpin,
    {
        if let Some(waker) = self.waker() {
            let mut context = Context::from_waker(&waker);
            let poll = || Pin::new(&mut handle).poll(&mut context).is_pending();
            let pending = catch_unwind(AssertUnwindSafe(poll));
            assert_eq!(pending.ok(), (self.cell.fault != WakerClone).then_some(true));
            let_go(waker);
        }
        if self.cell.phase == Abandoned {
            let_go(handle);
            self.release();
            return Vec::new();
        }
        self.release();
        vec![seen(get(handle))]
    }

    fn waker(&self) -> Option<Waker> {
        let own = || self.bomb(0, WakerDrop);
        let alarm = |wake_panics| Waker::from(Arc::new(Alarm { wake_panics, _own: own() }));
        match self.cell.fault {
            WakerWake => Some(alarm(true)),
            WakerDrop => Some(alarm(false)),
            WakerClone => Some(raw_waker(&CLONES_NEVER)),
            WakerCloneAgain => Some(raw_waker(&CLONES_ONCE)),
            _ => None,
        }
    }

    /// The outcomes of a stream.
    fn drain<I: Iterator<Item = Bomb>>(&self, mut stream: Imap<'_, I, Bomb>) -> Vec<String> {
        // To the end of the input, or to where it panics.
        let all = if self.cell.fault == InputNext { self.cell.at() + 1 } else { ITEMS + 1 };
        while self.cell.is_held() && self.asked.get() < all {
            let result = stream.next_timeout(Duration::ZERO);
            assert!(matches!(result, Err(Error::Timeout)), "the workers are held");
        }
        if self.cell.phase == Abandoned {
            let_go(stream);
            self.release();
            return Vec::new();
        }
        self.release();
        let outcomes = stream.by_ref().map(seen).collect();
        assert!(stream.next().is_none());
        let_go(stream);
        outcomes
    }

    /// Ends the pool, if it is to be ended by now, and lets the work begin.
    fn release(&self) {
        let Some((opener, held)) = self.held.take() else { return };
        if self.cell.phase != TerminatingWithin {
            self.cell.phase.end(&self.pool);
        }
        drop(opener);
        let outcomes = held.into_iter().map(|held| seen(held.get()));
        let terminates = matches!(self.cell.phase, Terminating | TerminatingWithin);
        outcomes.for_each(|outcome| assert!(outcome == VALUE || terminates, "{outcome}"));
    }

    fn run(self) {
        let Cell { fault, phase, .. } = self.cell;
        if INITIALIZERS.contains(&fault) {
            // Sooner or later the worker is to be replaced; then that is what everybody hears.
            let dead = [format!("{Initializer:?}")];
            let heard = (0..20).any(|_| self.call().ends_with(&dead));
            assert!(heard, "the initializer's panic is lost");
            assert_eq!(seen(self.pool.apply(|| (), ())), dead[0]);
        } else {
            self.cell.check(self.call());
        }
        if matches!(fault, Callback | ErrorCallback) && matches!(phase, Running | Closing) {
            assert_eq!(self.called.get(), 1, "calls of the callback");
        }
        if matches!(phase, Running | Abandoned) && !INITIALIZERS.contains(&fault) {
            assert_eq!(self.pool.map(|x: u32| x * x, 0..5).unwrap(), [0, 1, 4, 9, 16]);
            assert_eq!(self.pool.apply_async(|| 7, ()).get().unwrap(), 7);
        }
        self.pool.close();
        phase.end(&self.pool);
        self.pool.join().unwrap();
        let Trial { pool, local, drops, .. } = self;
        // This thread is the owner of what is left: why the pool died, and the value of a worker that
        // was not replaced.
        let_go(pool);
        let_go(local);
        drops.assert_each_once();
    }
}

// ---- all cells -----------------------------------------------------------------------------------

/// All cells of these faults, which are so many.
fn check(faults: &[Fault], count: usize) {
    quiet();
    let mut cells = Vec::new();
    for &fault in faults {
        for verb in BLOCKING.into_iter().chain(HANDLES).chain(STREAMS) {
            for kind in ALL {
                cells.extend(PHASES.map(|phase| Cell { fault, verb, kind, phase }));
            }
        }
    }
    cells.retain(|cell| cell.exists());
    if !cfg!(miri) {
        assert_eq!(cells.len(), count, "cells of {faults:?}");
    }
    let cells: Vec<_> = cells.into_iter().step_by(fewer(1, 37)).collect();
    let (send, results) = unbounded();
    let list = cells.clone();
    // Not joined: a cell may hang.
    thread::spawn(move || {
        for cell in list {
            let run = || Trial::new(cell).run();
            let _ = send.send(catch_unwind(AssertUnwindSafe(run)).map_err(|it| message(&*it)));
        }
    });
    let mut wrong = Vec::new();
    for cell in cells {
        match results.recv_timeout(LONG) {
            Ok(Ok(())) => {}
            Ok(Err(what)) => wrong.push(format!("{cell:?}: {what}")),
            Err(_) => {
                wrong.push(format!("{cell:?}: it hangs"));
                break;
            }
        }
    }
    // What is said on purpose is not shown.
    let all = wrong.join("\n").replace(ON_PURPOSE, "it panicked");
    assert!(wrong.is_empty(), "{} of {count} are wrong:\n{all}", wrong.len());
}

#[test]
fn panics_of_tasks() {
    check(&[Task, Payload], 594);
}

#[test]
fn panics_of_what_is_dropped() {
    check(&[ClosureDrop, ItemDrop, ResultDrop], 891);
}

#[test]
fn panics_of_inputs() {
    check(&[InputNext, InputDrop, InputInit, InputSplit], 519);
}

#[test]
fn panics_of_callbacks() {
    check(&[Callback, ErrorCallback], 138);
}

#[test]
fn panics_of_wakers() {
    check(&WAKERS, 400);
}

#[test]
fn panics_of_worker_locals() {
    check(&[LocalInit, LocalDrop], 594);
}

#[test]
fn panics_of_initializers_where_workers_are_replaced() {
    check(&INITIALIZERS, 180);
}

#[test]
fn panics_of_initializers_at_the_start() {
    watchdog(30, || {
        for kind in ALL {
            for fault in INITIALIZERS {
                let drops = Drops::default();
                let builder = kind.named("starts");
                let args = (Args::new(fault, 0, &drops),);
                let build = || builder.initializer(Args::use_them, args).build();
                let built = catch_unwind(AssertUnwindSafe(build));
                let outcome = built.map_or(String::from("a panic"), seen);
                assert_eq!(outcome, "Initializer", "{kind:?}, {fault:?}");
                assert_no_threads("starts");
                drops.assert_each_once();
            }
        }
    });
}

// ---- whose panic it is ---------------------------------------------------------------------------

#[test]
fn the_payload_of_a_panic_is_what_was_thrown() {
    #[derive(Debug, PartialEq)]
    struct Thrown(u32);

    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let throw = |x: u32| if x == 3 { std::panic::panic_any(Thrown(x)) } else { x };
            let errors = [
                pool.map(throw, 0..9).unwrap_err(),
                pool.map_async(throw, 0..9).get().unwrap_err(),
                pool.apply(throw, (3,)).unwrap_err(),
                pool.apply_async(throw, (3,)).get().unwrap_err(),
                pool.install(|| throw(3)).unwrap_err(),
            ];
            for (error, index) in errors.into_iter().zip([Some(3), Some(3), None, None, None]) {
                let Error::Panicked(panic) = error else { panic!("{kind:?}: {error:?}") };
                assert_eq!(panic.index(), index, "{kind:?}");
                assert_eq!(panic.into_payload().downcast_ref(), Some(&Thrown(3)));
            }
            let failed: Result<(), _> = pool.apply(|| panic!("{ON_PURPOSE}: {}", 7), ());
            let error = failed.unwrap_err();
            assert_eq!(error.to_string(), "the closure panicked: on purpose: 7");
            let Error::Panicked(panic) = error else { unreachable!() };
            let resumed = catch_unwind(AssertUnwindSafe(|| panic.resume())).unwrap_err();
            assert_eq!(common::message(&*resumed), "on purpose: 7");
        }
    });
}

#[test]
fn a_task_that_dies_takes_nothing_along() {
    // python/cpython#66587
    const CALLS: u32 = fewer(100, 10) as u32;

    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let task = |i: u32| assert!(i % 2 == 1, "{ON_PURPOSE}");
            let results: Vec<_> = (0..CALLS).map(|i| pool.apply_async(task, (i,))).collect();
            let good = results.into_iter().filter(|result| {
                result.wait();
                result.successful().unwrap()
            });
            assert_eq!(good.count(), CALLS as usize / 2, "{kind:?}");
            assert_eq!(pool.map(square, 0..4).unwrap(), [0, 1, 4, 9]);
            pool.close();
            pool.join().unwrap();
        }
    });
}

#[test]
fn what_the_owner_of_a_worker_local_drops_is_the_owners_panic() {
    watchdog(20, || {
        for kind in [Kind::Lasting(1), Kind::Lasting(3), Kind::Serial] {
            for takes_them in [false, true] {
                let (drops, pool) = (Drops::default(), kind.pool());
                let make = drops.clone();
                let local = WorkerLocal::new(move || Bomb::new(&make, 0, true));
                pool.apply(|| local.with(|_| ()), ()).unwrap();
                let dropped = catch_unwind(AssertUnwindSafe(|| match takes_them {
                    true => drop(local.into_inner()),
                    false => drop(local),
                }));
                assert_eq!(message(&*dropped.unwrap_err()), format!("{ON_PURPOSE}: dropped"));
                assert_eq!(pool.apply(|| 7, ()).unwrap(), 7);
                drop(pool);
                drops.assert_each_once();
            }
        }
    });
}

/// The pool drops them one by one: together, the second panic would end the process.
#[test]
fn a_closure_and_an_input_may_both_panic_when_they_are_dropped() {
    struct Grenade(Counter);

    impl Grenade {
        fn is_there(&self) -> bool {
            true
        }
    }

    impl Drop for Grenade {
        fn drop(&mut self) {
            self.0.add();
            panic!("{ON_PURPOSE}: dropped");
        }
    }

    watchdog(20, || {
        for kind in ALL {
            let (pool, drops) = (kind.pool(), Counter::default());
            let call = || {
                let (own, other) = (Grenade(drops.clone()), Grenade(drops.clone()));
                let f = move |i: usize| if own.is_there() { i } else { 0 };
                (f, (0..3).inspect(move |_| assert!(other.is_there())))
            };
            let (f, input) = call();
            assert_eq!(pool.map(f, input).unwrap(), [0, 1, 2], "{kind:?}");
            let (f, input) = call();
            assert_eq!(pool.map_async(f, input).get().unwrap(), [0, 1, 2], "{kind:?}");
            // Not begun, or not for long.
            let (f, input) = call();
            let late = pool.timeout(Duration::ZERO).map(f, input);
            assert!(matches!(late, Err(Error::DeadlineExceeded)), "{kind:?}");
            drop(pool);
            assert_eq!(drops.get(), 6, "{kind:?}");
        }
    });
}

/// Of two items that panic, one payload is not handed out; its `Drop` may panic, or ask for the handle.
#[test]
fn the_payload_that_loses_is_dropped_without_a_lock_where_workers_are_replaced() {
    struct Payload;
    impl Drop for Payload {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("{ON_PURPOSE}");
            }
        }
    }
    watchdog(30, || {
        for _ in 0..scaled(20) {
            let pool = Pool::builder().processes(2).max_tasks_per_child(100).build().unwrap();
            let both = std::sync::Arc::new(std::sync::Barrier::new(2));
            let fail = move |_| {
                both.wait();
                std::panic::panic_any(Payload)
            };
            let outcome: Result<Vec<()>, Error> =
                pool.chunksize(1).map_async(fail, vec![0, 1]).get();
            let Err(Error::Panicked(panic)) = outcome else { panic!("{outcome:?}") };
            assert_eq!(panic.index(), Some(0));
            std::mem::forget(panic);
            assert_eq!(pool.apply(|| 1, ()).unwrap(), 1);
        }
    });
}

// ---- thread-locals -------------------------------------------------------------------------------

fn arm_thread() {
    at_the_end(|| panic!("{ON_PURPOSE}: a thread-local"));
}

/// Run by the test below, in a process of its own.
#[test]
fn child_with_a_thread_local_whose_drop_panics() {
    match std::env::var("PARPOOL_THREAD").as_deref() {
        Ok("std") => drop(thread::spawn(arm_thread).join()),
        Ok("pool") => {
            let pool = Pool::new(1).unwrap();
            pool.apply(arm_thread, ()).unwrap();
            println!("the task is done");
            drop(pool);
        }
        _ => return,
    }
    println!("survived");
}

/// A panic in the destructor of a thread-local ends the process, whichever code made the thread: it is std's
/// rule ("thread local panicked on drop"), so no pool can do better.
#[test]
#[cfg_attr(miri, ignore = "starts a process")]
fn a_thread_local_whose_drop_panics_ends_the_process_as_on_any_thread() {
    let run = |thread: &str| -> Output {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "child_with_a_thread_local_whose_drop_panics"]);
        child.arg("--nocapture").env("PARPOOL_THREAD", thread);
        child.output().unwrap()
    };
    let (on_std, on_pool) = (run("std"), run("pool"));
    assert!(!on_std.status.success());
    assert_eq!(on_pool.status, on_std.status);
    let rule = "thread local panicked on drop";
    for output in [&on_std, &on_pool] {
        assert!(String::from_utf8_lossy(&output.stderr).contains(rule), "{output:?}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("survived"), "{output:?}");
    }
    assert!(String::from_utf8_lossy(&on_pool.stdout).contains("the task is done"));
}
