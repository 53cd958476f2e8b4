//! The caller's span around its tasks, and a span for each chunk.

mod common;

use std::sync::{Mutex, Once};

use common::{Kind, MIXED, watchdog};
use parpool::Pool;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Span, info, info_span};
use tracing_subscriber::layer::{Context as Layered, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

/// An event of a closure: which item, and the spans it was in, the outermost first.
#[derive(Clone, Debug)]
struct Seen {
    item: u64,
    spans: Vec<(&'static str, Numbers)>,
}

/// The fields of a span or an event.
#[derive(Clone, Debug, Default)]
struct Numbers(Vec<(&'static str, u64)>);

impl Numbers {
    fn get(&self, name: &str) -> u64 {
        self.0.iter().find(|(other, _)| *other == name).expect("the field is there").1
    }
}

impl Visit for Numbers {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.push((field.name(), value));
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

static SEEN: Mutex<Vec<Seen>> = Mutex::new(Vec::new());

struct Collector;

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Collector {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Layered<'_, S>) {
        let mut numbers = Numbers::default();
        attributes.record(&mut numbers);
        context.span(id).unwrap().extensions_mut().insert(numbers);
    }

    fn on_event(&self, event: &Event<'_>, context: Layered<'_, S>) {
        let mut numbers = Numbers::default();
        event.record(&mut numbers);
        let spans = context.event_scope(event).into_iter().flat_map(|scope| scope.from_root());
        let spans = spans.map(|span| {
            let numbers = span.extensions().get::<Numbers>().cloned().unwrap_or_default();
            (span.name(), numbers)
        });
        let seen = Seen { item: numbers.get("item"), spans: spans.collect() };
        SEEN.lock().unwrap().push(seen);
    }
}

/// What was seen in a span with field `case`, sorted by item.
fn seen(case: u64) -> Vec<Seen> {
    let mine =
        |seen: &&Seen| seen.spans.first().is_some_and(|(_, numbers)| numbers.get("case") == case);
    let mut all: Vec<_> = SEEN.lock().unwrap().iter().filter(mine).cloned().collect();
    all.sort_by_key(|seen| seen.item);
    all
}

fn collect() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::subscriber::set_global_default(Registry::default().with(Collector)).unwrap();
    });
}

#[test]
fn each_item_of_every_verb_is_in_the_callers_span_and_in_its_chunk() {
    collect();
    watchdog(60, || {
        let log = |item: u64| info!(item);
        let mut case = 0;
        for pool in MIXED.map(Kind::pool) {
            for verb in 0..6 {
                case += 1;
                let caller = info_span!("caller", case);
                let _entered = caller.enter();
                let view = pool.chunksize(4);
                let items: Vec<u64> = (0..10).collect();
                match verb {
                    0 => drop(view.map(log, items).unwrap()),
                    1 => drop(view.map(log, 0..10).unwrap()),
                    2 => drop(view.map_async(log, items).get().unwrap()),
                    3 => drop(view.map_async(log, 0..10).get().unwrap()),
                    4 => assert_eq!(view.imap(log, 0..10).count(), 10),
                    _ => assert_eq!(view.imap_unordered(log, 0..10).count(), 10),
                }
                let seen = seen(case);
                assert_eq!(seen.len(), 10, "{pool:?}, verb {verb}");
                for (item, seen) in (0..).zip(seen) {
                    let names: Vec<_> = seen.spans.iter().map(|(name, _)| *name).collect();
                    assert_eq!(names, ["caller", "chunk"], "{pool:?}, verb {verb}");
                    let chunk = &seen.spans[1].1;
                    let (index, size) = (chunk.get("index"), chunk.get("size"));
                    assert!(index <= item && item < index + size, "{pool:?}, verb {verb}");
                    assert_eq!(seen.item, item);
                }
            }
        }
    });
}

#[test]
fn single_functions_are_in_the_callers_span() {
    collect();
    watchdog(60, || {
        for (case, pool) in (1000_u64..).zip(MIXED.map(Kind::pool)) {
            let caller = info_span!("caller", case);
            let _entered = caller.enter();
            pool.apply(|| info!(item = 0_u64), ()).unwrap();
            pool.apply_async(|| info!(item = 1_u64), ()).get().unwrap();
            let borrowed = 2_u64;
            pool.scope(|s| s.apply_async(|| info!(item = borrowed), ()).get()).unwrap();
            let seen = seen(case);
            assert_eq!(seen.iter().map(|seen| seen.item).collect::<Vec<_>>(), [0, 1, 2]);
            assert!(seen.iter().all(|seen| seen.spans.len() == 1), "{pool:?}");
        }
    });
}

#[test]
fn no_span_stays_entered_on_a_worker() {
    collect();
    watchdog(60, || {
        let pool = Pool::new(1).unwrap();
        {
            let case = 2000_u64;
            let caller = info_span!("caller", case);
            let _entered = caller.enter();
            common::quiet();
            pool.map(|_| panic!("{}", common::ON_PURPOSE), 0..3).map(|_: Vec<()>| ()).unwrap_err();
            pool.apply(|| panic!("{}", common::ON_PURPOSE), ()).unwrap_err();
        }
        assert!(pool.apply(|| Span::current().is_none(), ()).unwrap());
    });
}
