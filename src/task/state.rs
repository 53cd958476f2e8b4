//! The state of one result: from queued to taken, with exactly one outcome.
//!
//! | stage | who leaves it, and how |
//! |---|---|
//! | `Queued` | the thread that takes the work first ([`begin`](TaskState::begin)), or ends it unbegun ([`resolve`](TaskState::resolve)) |
//! | `Running` | who runs it, with its outcome; or who sees that nobody shall wait for it any more |
//! | `Calling` | the same thread, which it names, when the callbacks have returned; none registered meanwhile is lost |
//! | `Ready` | the owner of the handle, who takes the outcome |
//! | `Taken` | nobody |
//!
//! The work and its outcome share their place. User code (work, callbacks, wakers, `Drop`) never
//! runs under the lock.

use std::task::Waker;

use crate::error::Error;
use crate::panic::{catch, discard};
use crate::scheduler::{Wakers, park, thread_number};
use crate::sync::{Mutex, lock};

pub(crate) type Outcome<T> = Result<T, Error>;

pub(crate) type Callback<'s, T> = Box<dyn FnOnce(&Outcome<T>) + Send + 's>;

enum Stage<W, T> {
    Queued(W),
    Running,
    /// On the thread of that number.
    Calling(usize),
    Ready(Outcome<T>),
    /// Whether the outcome was a value.
    Taken(bool),
}

pub(crate) struct TaskState<'s, W, T>(Mutex<TaskInner<'s, W, T>>);

struct TaskInner<'s, W, T> {
    stage: Stage<W, T>,
    /// Most results are there before anybody waits: in its own memory, to keep a task small.
    waiting: Option<Box<Waiters<'s, T>>>,
    /// The handle is gone: the outcome is dropped where it comes to be.
    detached: bool,
}

/// Who is to hear of the outcome.
struct Waiters<'s, T> {
    callbacks: Vec<Callback<'s, T>>,
    threads: Wakers,
    /// Of the last poll of the handle.
    future: Option<Waker>,
}

/// Who is woken when the outcome is there.
#[derive(Clone, Copy)]
pub(crate) enum Wake<'w> {
    Nobody,
    /// A thread that waits, with a waker of this crate's.
    Thread(&'w Waker),
    /// The task of a runtime that polls the handle. Its waker is the user's code, and replaces that of the poll
    /// before.
    Future(&'w Waker),
}

impl<'s, W, T> TaskInner<'s, W, T> {
    fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready(_) | Stage::Taken(_))
    }

    fn waiting(&mut self) -> &mut Waiters<'s, T> {
        self.waiting.get_or_insert_with(|| {
            Box::new(Waiters { callbacks: Vec::new(), threads: Wakers::default(), future: None })
        })
    }
}

impl<'s, W, T> TaskState<'s, W, T> {
    pub(crate) fn new(work: W) -> Self {
        Self::at(Stage::Queued(work))
    }

    /// Of a call that has its outcome.
    pub(crate) fn ready(outcome: Outcome<T>) -> Self {
        Self::at(Stage::Ready(outcome))
    }

    fn at(stage: Stage<W, T>) -> Self {
        TaskState(Mutex::new(TaskInner { stage, waiting: None, detached: false }))
    }

    /// Takes the work; `None` if somebody did before or it was resolved.
    pub(crate) fn begin(&self) -> Option<W> {
        let mut inner = lock(&self.0);
        if !matches!(inner.stage, Stage::Queued(_)) {
            return None;
        }
        match std::mem::replace(&mut inner.stage, Stage::Running) {
            Stage::Queued(work) => Some(work),
            _ => None,
        }
    }

    /// Gives the call its outcome, unless it has one: runs the callbacks, then lets the outcome be
    /// seen, then wakes who waits. True if this call did it.
    pub(crate) fn resolve(&self, outcome: Outcome<T>) -> bool {
        self.resolve_if(outcome, |stage| matches!(stage, Stage::Queued(_) | Stage::Running))
    }

    /// The same, unless the work was begun.
    pub(crate) fn resolve_queued(&self, outcome: Outcome<T>) -> bool {
        self.resolve_if(outcome, |stage| matches!(stage, Stage::Queued(_)))
    }

    fn resolve_if(&self, outcome: Outcome<T>, may: impl FnOnce(&Stage<W, T>) -> bool) -> bool {
        let mut inner = lock(&self.0);
        if !may(&inner.stage) {
            drop(inner);
            discard(outcome);
            return false;
        }
        let before = std::mem::replace(&mut inner.stage, Stage::Calling(thread_number()));
        if let Stage::Queued(work) = before {
            drop(inner);
            discard(work);
            inner = lock(&self.0);
        }
        while inner.waiting.as_ref().is_some_and(|waiting| !waiting.callbacks.is_empty()) {
            let callbacks = std::mem::take(&mut inner.waiting().callbacks);
            drop(inner);
            callbacks.into_iter().for_each(|callback| call(callback, &outcome));
            inner = lock(&self.0);
        }
        let mut unseen = None;
        if inner.detached {
            inner.stage = Stage::Taken(outcome.is_ok());
            unseen = Some(outcome);
        } else {
            inner.stage = Stage::Ready(outcome);
        }
        let waiting = inner.waiting.take();
        drop(inner);
        if let Some(waiting) = waiting {
            waiting.threads.wake();
            waiting.future.into_iter().for_each(park::wake);
        }
        discard(unseen);
        true
    }

    /// Whether the outcome is there; if not, it will be told when it is.
    pub(crate) fn poll(&self, wake: Wake<'_>) -> bool {
        let mut inner = lock(&self.0);
        if inner.is_ready() {
            return true;
        }
        match wake {
            Wake::Nobody => {}
            Wake::Thread(waker) => inner.waiting().threads.add(waker),
            Wake::Future(waker) => {
                let known = inner.waiting().future.as_ref();
                if known.is_some_and(|known| known.will_wake(waker)) {
                    return false;
                }
                // To clone and to drop it is the user's code.
                drop(inner);
                let waker = waker.clone();
                let mut inner = lock(&self.0);
                let ready = inner.is_ready();
                let other = if ready { Some(waker) } else { inner.waiting().future.replace(waker) };
                drop(inner);
                discard(other);
                return ready;
            }
        }
        false
    }

    /// Whether the calling thread is in a callback: the outcome will not be there before that returns.
    pub(crate) fn is_calling_here(&self) -> bool {
        matches!(lock(&self.0).stage, Stage::Calling(thread) if thread == thread_number())
    }

    /// Has those who wait look again: there may be something for them to do meanwhile.
    pub(crate) fn wake(&self) {
        let waiting = lock(&self.0)
            .waiting
            .as_mut()
            .map(|waiting| (std::mem::take(&mut waiting.threads), waiting.future.take()));
        if let Some((threads, future)) = waiting {
            threads.wake();
            future.into_iter().for_each(park::wake);
        }
    }

    /// The outcome, once, if it is there.
    pub(crate) fn try_take(&self) -> Option<Outcome<T>> {
        let mut inner = lock(&self.0);
        let taken = match &inner.stage {
            Stage::Ready(outcome) => Stage::Taken(outcome.is_ok()),
            Stage::Taken(_) => return Some(Err(Error::Taken)),
            _ => return None,
        };
        match std::mem::replace(&mut inner.stage, taken) {
            Stage::Ready(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Whether the outcome is, or was, a value.
    pub(crate) fn successful(&self) -> Result<bool, Error> {
        match &lock(&self.0).stage {
            Stage::Ready(outcome) => Ok(outcome.is_ok()),
            Stage::Taken(ok) => Ok(*ok),
            _ => Err(Error::NotReady),
        }
    }

    /// Calls `callback` with the outcome before anybody else can see it; at once if it is there. Not
    /// at all if it was taken. Only the owner of the handle calls this and [`try_take`](TaskState::try_take).
    pub(crate) fn on_outcome(&self, callback: Callback<'s, T>) {
        let mut inner = lock(&self.0);
        match std::mem::replace(&mut inner.stage, Stage::Calling(thread_number())) {
            Stage::Ready(outcome) => {
                drop(inner);
                call(callback, &outcome);
                lock(&self.0).stage = Stage::Ready(outcome);
            }
            Stage::Taken(ok) => {
                inner.stage = Stage::Taken(ok);
                drop(inner);
                discard(callback);
            }
            other => {
                inner.stage = other;
                inner.waiting().callbacks.push(callback);
            }
        }
    }

    /// The handle is being dropped: the outcome goes with it, or is dropped as soon as it is there.
    pub(crate) fn detach(&self) {
        let outcome = {
            let mut inner = lock(&self.0);
            inner.detached = true;
            match &inner.stage {
                Stage::Ready(outcome) => {
                    let taken = Stage::Taken(outcome.is_ok());
                    Some(std::mem::replace(&mut inner.stage, taken))
                }
                _ => None,
            }
        };
        drop(outcome);
    }
}

/// A panicking callback costs nobody the value.
fn call<T>(callback: Callback<'_, T>, outcome: &Outcome<T>) {
    if let Err(payload) = catch(|| callback(outcome)) {
        discard(payload);
    }
}

/// The state with all that may use it, in all orders.
#[cfg(all(test, loom))]
mod models {
    use super::*;
    use crate::scheduler::park;
    use crate::sync::{Arc, Mutex, lock, model};
    use loom::thread;

    /// A value whose drops are counted.
    struct Token(Arc<Mutex<usize>>);

    impl Drop for Token {
        fn drop(&mut self) {
            *lock(&self.0) += 1;
        }
    }

    /// What else gives it its outcome, besides the worker that runs the work.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Rival {
        Nobody,
        /// The owner, if the work was not begun.
        Cancel,
        Terminate,
    }

    /// What the owner of the handle does.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Owner {
        Get,
        /// A `get_timeout` whose time is up at some moment, then a `get`.
        TimeoutThenGet,
        Drop,
        CallbackThenGet,
        GetThenCallback,
        /// Somebody else waits too.
        TwoWait,
        /// As a worker that waits: runs the work itself if nobody has begun it.
        Help,
    }

    const OWNERS: [Owner; 7] = [
        Owner::Get,
        Owner::TimeoutThenGet,
        Owner::Drop,
        Owner::CallbackThenGet,
        Owner::GetThenCallback,
        Owner::TwoWait,
        Owner::Help,
    ];

    type Tested = TaskState<'static, Token, Token>;

    /// Blocks until the outcome is there, and takes it.
    fn get(cell: &Tested) -> Outcome<Token> {
        park::until(None, |waker| cell.poll(Wake::Thread(waker)));
        cell.try_take().expect("it is there")
    }

    /// Does the work, unless somebody has begun it.
    fn run(cell: &Tested, fails: bool, value: Token) {
        let Some(work) = cell.begin() else { return };
        drop(work);
        let outcome = if fails { Err(Error::NotReady) } else { Ok(value) };
        cell.resolve(outcome);
    }

    fn explore(fails: bool, rival: Rival, owner: Owner) {
        model(move || {
            let drops = Arc::new(Mutex::new(0));
            let token = || Token(Arc::clone(&drops));
            // The work and, if it is done, its value.
            let cell = Arc::new(Tested::new(token()));
            let mut threads = Vec::new();
            threads.push(thread::spawn({
                let (cell, value) = (Arc::clone(&cell), token());
                move || run(&cell, fails, value)
            }));
            if rival == Rival::Terminate {
                let cell = Arc::clone(&cell);
                threads.push(thread::spawn(move || {
                    cell.resolve(Err(Error::Terminated));
                }));
            }
            let cancelled = rival == Rival::Cancel && cell.resolve_queued(Err(Error::Cancelled));
            let calls = Arc::new(Mutex::new(0));
            let outcome = match owner {
                Owner::Get => Some(get(&cell)),
                Owner::TimeoutThenGet => {
                    let now = crate::sync::Instant::now();
                    park::until(Some(now), |waker| cell.poll(Wake::Thread(waker)));
                    Some(get(&cell))
                }
                Owner::Drop => {
                    cell.detach();
                    None
                }
                Owner::CallbackThenGet => {
                    let count = Arc::clone(&calls);
                    cell.on_outcome(Box::new(move |_| *lock(&count) += 1));
                    let outcome = get(&cell);
                    assert_eq!(*lock(&calls), 1, "called before anybody sees the outcome");
                    Some(outcome)
                }
                Owner::GetThenCallback => {
                    park::until(None, |waker| cell.poll(Wake::Thread(waker)));
                    let count = Arc::clone(&calls);
                    cell.on_outcome(Box::new(move |_| *lock(&count) += 1));
                    assert_eq!(*lock(&calls), 1, "called at once");
                    cell.try_take()
                }
                Owner::Help => {
                    run(&cell, fails, token());
                    Some(get(&cell))
                }
                Owner::TwoWait => {
                    let other = Arc::clone(&cell);
                    threads.push(thread::spawn(move || {
                        park::until(None, |waker| other.poll(Wake::Thread(waker)));
                    }));
                    park::until(None, |waker| cell.poll(Wake::Thread(waker)));
                    None
                }
            };
            match outcome {
                Some(Ok(_value)) => assert!(!fails && !cancelled),
                Some(Err(Error::NotReady)) => assert!(fails && !cancelled),
                Some(Err(Error::Cancelled)) => assert!(cancelled),
                Some(Err(Error::Terminated)) => assert_eq!(rival, Rival::Terminate),
                Some(Err(other)) => panic!("{other:?}"),
                None => {}
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            drop(cell);
            let made = if owner == Owner::Help { 3 } else { 2 };
            assert_eq!(*lock(&drops), made, "the work and each value are dropped once");
        });
    }

    #[test]
    fn every_owner_gets_the_one_outcome_of_the_work() {
        for owner in OWNERS {
            explore(false, Rival::Nobody, owner);
            explore(true, Rival::Nobody, owner);
        }
    }

    #[test]
    fn a_cancel_wins_or_does_nothing() {
        OWNERS.into_iter().for_each(|owner| explore(false, Rival::Cancel, owner));
    }

    #[test]
    fn a_terminate_wins_or_does_nothing() {
        OWNERS.into_iter().for_each(|owner| explore(false, Rival::Terminate, owner));
    }
}
