//! What watches a call may panic: closures and bars of a `Progress`, subscribers of `tracing`. And tasks may, in the
//! verbs that the matrix of `tests/panics.rs` does not have: with seeds, over arrays, polled as streams. Each call has the
//! outcome that it has when nobody watches, the pool works after, and it can be joined.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;

use crossbeam_channel::unbounded;
use parpool::{Error, Options, Pool, Progress, TryError};

use common::{ALL, Kind, LONG, ON_PURPOSE, fewer, message, quiet};

/// More than one chunk in a pool of each kind.
const ITEMS: usize = 24;

/// The item that panics, if one does.
const AT: usize = 5;

/// How many values came, and at which items there was a panic.
type Outcome = (usize, Vec<Option<usize>>);

/// What came of a call that gives all values or an error.
fn whole<T>(result: Result<T, Error>, len: impl FnOnce(T) -> usize) -> Outcome {
    match result {
        Ok(values) => (len(values), Vec::new()),
        Err(Error::Panicked(panic)) => (0, vec![panic.index()]),
        Err(other) => panic!("{other:?}"),
    }
}

/// What came of a stream.
fn each<T>(results: impl Iterator<Item = Result<T, Error>>) -> Outcome {
    results.map(|result| whole(result, |_| 1)).fold((0, Vec::new()), |mut all, (values, panics)| {
        all.0 += values;
        all.1.extend(panics);
        all
    })
}

/// What is called for each item.
type Work = fn(usize) -> usize;

/// How the outcome of a verb looks when an item panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// One function: there is no index.
    Single,
    /// All values, or the error of the item.
    All,
    /// A result for each item.
    Each,
}

struct Verb {
    name: &'static str,
    shape: Shape,
    call: fn(Options<'_>, Work) -> Outcome,
}

use Shape::*;

fn verbs() -> Vec<Verb> {
    let mut verbs = Vec::new();
    let mut verb = |name, shape, call: fn(Options<'_>, Work) -> Outcome| {
        verbs.push(Verb { name, shape, call })
    };
    verb("apply", Single, |p, f| whole(p.apply(f, (AT,)), |_| ITEMS));
    verb("apply_async", Single, |p, f| whole(p.apply_async(f, (AT,)).get(), |_| ITEMS));
    verb("map", All, |p, f| whole(p.map(f, 0..ITEMS), |v| v.len()));
    verb("map, collection", All, |p, f| whole(p.map(f, all()), |v| v.len()));
    verb("map, chunks", All, |p, f| whole(p.chunksize(5).map(f, 0..ITEMS), |v| v.len()));
    verb("try_map", All, |p, f| {
        let result = p.try_map(|x| Ok::<_, ()>(f(x)), all());
        whole(result.map_err(pool_error), |v| v.len())
    });
    verb("sum", All, |p, f| whole(p.sum(|x| f(x).min(1), 1..=ITEMS), |sum| sum));
    verb("map_async", All, |p, f| whole(p.map_async(f, 0..ITEMS).get(), |v| v.len()));
    verb("map_async, collection", All, |p, f| whole(p.map_async(f, all()).get(), |v| v.len()));
    verb("imap", Each, |p, f| each(p.imap(f, 0..ITEMS)));
    verb("imap_unordered", Each, |p, f| each(p.chunksize(4).imap_unordered(f, 0..ITEMS)));
    verb("scope, apply_async", Single, |p, f| {
        p.scope(|s| whole(s.apply_async(f, (AT,)).get(), |_| ITEMS))
    });
    verb("scope, map_async", All, |p, f| {
        p.scope(|s| whole(s.map_async(f, all()).get(), |v| v.len()))
    });
    verb("scope, imap", Each, |p, f| p.scope(|s| each(s.imap(f, 0..ITEMS))));
    // With seeds.
    verb("seed, map", All, |p, f| whole(p.seed(7).map(|_, x| f(x), 0..ITEMS), |v| v.len()));
    verb("seed, try_map", All, |p, f| {
        let result = p.seed(7).try_map(|_, x| Ok::<_, ()>(f(x)), all());
        whole(result.map_err(pool_error), |v| v.len())
    });
    verb("seed, reduce", All, |p, f| {
        whole(p.seed(7).reduce(|_, x| f(x), |a, b| a.max(b), 0..ITEMS), |max| max.unwrap() + 1)
    });
    verb("seed, map_async", All, |p, f| {
        whole(p.seed(7).map_async(move |_, x| f(x), all()).get(), |v| v.len())
    });
    verb("seed, imap", Each, |p, f| each(p.seed(7).imap(move |_, x| f(x), 0..ITEMS)));
    #[cfg(feature = "ndarray")]
    {
        use ndarray::{Array2, Axis};

        /// Its rows are as many as there are items, and begin with their index.
        fn rows() -> Array2<usize> {
            Array2::from_shape_fn((ITEMS, 2), |(row, _)| row)
        }

        verb("map_rows", All, |p, f| whole(p.map_rows(|row| f(row[0]), &rows()), |v| v.len()));
        verb("map_lanes", All, |p, f| {
            whole(p.map_lanes(|lane| f(lane[0]), Axis(1), &rows()), |v| v.len())
        });
        verb("map_array", All, |p, f| {
            let column = rows().column(0).to_owned();
            whole(p.map_array(|x| f(*x), &column), |v| v.len())
        });
        verb("map_rows_into", All, |p, f| {
            let (rows, mut out) = (rows(), Array2::zeros((ITEMS, 1)));
            let result = p.map_rows_into(|row, mut out| out.fill(f(row[0])), &rows, &mut out);
            whole(result, |()| out.len())
        });
    }
    #[cfg(feature = "futures")]
    {
        use futures::StreamExt;
        use futures::executor::block_on;

        verb("imap, polled", Each, |p, f| {
            let stream = p.imap(f, 0..ITEMS).into_stream();
            each(block_on(stream.collect::<Vec<_>>()).into_iter())
        });
        verb("imap_unordered, polled", Each, |p, f| {
            let stream = p.imap_unordered(f, 0..ITEMS).into_stream();
            each(block_on(stream.collect::<Vec<_>>()).into_iter())
        });
    }
    verbs
}

fn all() -> Vec<usize> {
    (0..ITEMS).collect()
}

fn pool_error(error: TryError<()>) -> Error {
    match error {
        TryError::Pool(error) => error,
        other => unreachable!("{other:?}"),
    }
}

impl Verb {
    /// What comes of it, whatever watches.
    fn expected(&self, panics: bool) -> Outcome {
        match (panics, self.shape) {
            (false, _) => (ITEMS, Vec::new()),
            (true, Single) => (0, vec![None]),
            (true, All) if self.name == "sum" => (0, vec![Some(AT - 1)]),
            (true, All) => (0, vec![Some(AT)]),
            (true, Each) => (ITEMS - 1, vec![Some(AT)]),
        }
    }
}

fn fine(x: usize) -> usize {
    x
}

fn fails(x: usize) -> usize {
    assert_ne!(x, AT, "{ON_PURPOSE}: a task");
    x
}

/// All verbs on all pools, watched by what `watched` makes for each call, with tasks that panic and with others.
fn check(watchers: &'static [&'static str], watched: fn(&str) -> Progress) {
    // One at a time: a subscriber is the process's.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    quiet();
    let mut cells = Vec::new();
    for watcher in watchers {
        for kind in ALL {
            for verb in 0..verbs().len() {
                cells.extend([false, true].map(|panics| (*watcher, kind, verb, panics)));
            }
        }
    }
    let cells: Vec<_> = cells.into_iter().step_by(fewer(1, 29)).collect();
    let (send, results) = unbounded();
    let list = cells.clone();
    // Not joined: a cell may hang.
    thread::spawn(move || {
        let verbs = verbs();
        for (watcher, kind, verb, panics) in list {
            let run = || run(watcher, kind, &verbs[verb], panics, watched);
            let outcome = catch_unwind(AssertUnwindSafe(run));
            let _ = send.send(outcome.map_err(|payload| message(&*payload)));
        }
    });
    let mut wrong = Vec::new();
    for (watcher, kind, verb, panics) in cells {
        let cell = format!("{watcher}, {kind:?}, {}, tasks panic: {panics}", verbs()[verb].name);
        match results.recv_timeout(LONG) {
            Ok(Ok(())) => {}
            Ok(Err(what)) => wrong.push(format!("{cell}: {what}")),
            Err(_) => {
                wrong.push(format!("{cell}: it hangs"));
                break;
            }
        }
    }
    // What is said on purpose is not shown.
    let text = wrong.join("\n").replace(ON_PURPOSE, "it panicked");
    assert!(wrong.is_empty(), "{} are wrong:\n{text}", wrong.len());
}

/// One call in a pool of its own; the pools of the calls that fail have insights too.
fn run(watcher: &str, kind: Kind, verb: &Verb, panics: bool, watched: fn(&str) -> Progress) {
    let pool: Pool = kind.builder().insights(panics).build().unwrap();
    let progress = watched(watcher);
    let outcome = (verb.call)(pool.progress(&progress), if panics { fails } else { fine });
    assert_eq!(outcome, verb.expected(panics));
    assert_eq!(pool.map(|x: u32| x * x, 0..5).unwrap(), [0, 1, 4, 9, 16]);
    assert_eq!(pool.apply_async(|| 7, ()).get().unwrap(), 7);
    pool.close();
    pool.join().unwrap();
    // A bar is drawn for the last time when its last owner drops it, and that is this thread.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(progress)));
    subscriber::disarm();
}

#[test]
fn nobody_watches() {
    check(&["nobody"], |_| Progress::default());
}

#[test]
fn closures_that_panic() {
    check(&["always", "at the end"], |when| {
        let always = when == "always";
        Progress::new(move |done, total| {
            assert!(!always && Some(done) != total, "{ON_PURPOSE}: the closure");
        })
    });
}

#[cfg(feature = "indicatif")]
#[test]
fn bars_that_panic() {
    use std::fmt::Write;

    use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

    check(&["always", "at the end"], |when| {
        let always = when == "always";
        let style = ProgressStyle::with_template("{mine} {pos}").unwrap();
        let style = style.with_key("mine", move |state: &ProgressState, _: &mut dyn Write| {
            assert!(!always && !state.is_finished(), "{ON_PURPOSE}: the style");
        });
        let target = ProgressDrawTarget::term_like(Box::new(common::Nowhere));
        Progress::from(ProgressBar::with_draw_target(None, target).with_style(style))
    });
}

#[cfg(feature = "tracing")]
#[test]
fn subscribers_that_panic() {
    check(&subscriber::PLACES, |place| {
        subscriber::arm(place);
        Progress::default()
    });
    subscriber::assert_each_panicked();
}

/// A subscriber that panics where it is told to.
#[cfg(feature = "tracing")]
mod subscriber {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, Once, OnceLock};

    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};
    use tracing_core::span::Current;

    use super::ON_PURPOSE;

    pub(crate) const PLACES: [&str; 8] = [
        "enabled",
        "new_span",
        "enter",
        "exit",
        "current_span",
        "clone_span",
        "try_close",
        "every other one",
    ];

    static ARMED: AtomicUsize = AtomicUsize::new(usize::MAX);

    static PANICKED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

    struct Panicky;

    impl Panicky {
        fn at(&self, place: &str) {
            static CALLS: AtomicUsize = AtomicUsize::new(0);
            let armed = match PLACES.get(ARMED.load(Ordering::SeqCst)) {
                Some(&"every other one") => CALLS.fetch_add(1, Ordering::SeqCst) % 2 == 1,
                other => other == Some(&place),
            };
            if armed {
                PANICKED.lock().unwrap().insert(place.to_owned());
                panic!("{ON_PURPOSE}: the subscriber, {place}");
            }
        }
    }

    impl Subscriber for Panicky {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            self.at("enabled");
            true
        }

        // So that it is asked each time.
        fn register_callsite(
            &self,
            _: &'static Metadata<'static>,
        ) -> tracing::subscriber::Interest {
            tracing::subscriber::Interest::sometimes()
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            self.at("new_span");
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &Event<'_>) {}

        fn enter(&self, _: &Id) {
            self.at("enter");
        }

        fn exit(&self, _: &Id) {
            self.at("exit");
        }

        fn clone_span(&self, id: &Id) -> Id {
            self.at("clone_span");
            id.clone()
        }

        fn try_close(&self, _: Id) -> bool {
            self.at("try_close");
            true
        }

        fn current_span(&self) -> Current {
            self.at("current_span");
            match CALLSITE.get() {
                Some(metadata) => Current::new(Id::from_u64(1), metadata),
                None => Current::none(),
            }
        }
    }

    /// What the caller's span is said to be.
    static CALLSITE: OnceLock<&'static Metadata<'static>> = OnceLock::new();

    pub(crate) fn arm(place: &str) {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            tracing::subscriber::set_global_default(Panicky).unwrap();
            let span = tracing::info_span!("caller");
            CALLSITE.set(span.metadata().unwrap()).unwrap();
        });
        let place = PLACES.iter().position(|other| *other == place).unwrap();
        ARMED.store(place, Ordering::SeqCst);
    }

    pub(crate) fn assert_each_panicked() {
        let panicked = PANICKED.lock().unwrap();
        assert!(PLACES[..7].iter().all(|place| panicked.contains(*place)), "{panicked:?}");
    }

    pub(crate) fn disarm() {
        ARMED.store(usize::MAX, Ordering::SeqCst);
    }
}

#[cfg(not(feature = "tracing"))]
mod subscriber {
    pub(crate) fn disarm() {}
}
