//! What insights say of calls whose course is known.

mod common;

use std::collections::HashSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{ON_PURPOSE, fewer, quiet, watchdog};
use parpool::{Bottleneck, Builder, CallInsights, Context, Pool};

fn watched(processes: usize) -> Builder {
    Pool::builder().processes(processes).insights(true)
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn last(pool: &Pool) -> CallInsights {
    pool.insights().unwrap().calls().last().unwrap().clone()
}

#[test]
fn a_pool_that_was_not_asked_has_none() {
    let pool = Pool::new(1).unwrap();
    pool.map(|x| x, 0..10).unwrap();
    assert!(pool.insights().is_none());
}

#[test]
fn items_and_chunks_are_counted_for_every_verb_and_kind_of_pool() {
    const LEN: usize = fewer(100, 6);

    watchdog(60, || {
        let builders = [
            watched(1),
            watched(3),
            watched(2).max_tasks_per_child(5),
            Pool::builder().insights(true).context(Context::serial()),
        ];
        for builder in builders {
            let pool = builder.build().unwrap();
            let workers = pool.processes();
            let items = || (0..LEN).collect::<Vec<_>>();
            let view = pool.chunksize(1);
            view.map(|x| x, items()).unwrap();
            view.map(|x| x, 0..LEN).unwrap();
            view.try_map(Ok::<_, ()>, items()).unwrap();
            view.map_async(|x| x, items()).get().unwrap();
            view.map_async(|x| x, 0..LEN).get().unwrap();
            assert_eq!(view.imap(|x| x, 0..LEN).count(), LEN);
            assert_eq!(view.imap_unordered(|x| x, 0..LEN).count(), LEN);
            pool.apply(|| (), ()).unwrap();
            pool.apply_async(|| (), ()).get().unwrap();
            let insights = pool.insights().unwrap();
            let verbs: Vec<_> = insights.calls().iter().map(CallInsights::verb).collect();
            let expected = "map map try_map map_async map_async imap imap_unordered apply";
            assert_eq!(verbs, expected.split(' ').collect::<Vec<_>>());
            let mut chunks = 0;
            for call in insights.calls() {
                let case = format!("{pool:?}, {}", call.verb());
                let expected = if call.verb() == "apply" { 2 } else { LEN };
                assert_eq!(call.items(), expected, "{case}");
                assert!(1 <= call.chunks() && call.chunks() <= expected, "{case}");
                assert!(call.speed_up() <= workers as f64 + 1e-9, "{case}: {}", call.speed_up());
                assert!(call.busy() <= call.duration() * workers as u32, "{case}");
                assert!(!call.longest().is_empty() && call.longest().len() <= 3, "{case}");
                assert!(call.longest().iter().all(|long| long.items().end <= LEN), "{case}");
                assert!(call.longest().is_sorted_by(|a, b| a.duration() >= b.duration()));
                chunks += call.chunks();
            }
            let tasks: usize = insights.workers().iter().map(|worker| worker.tasks()).sum();
            assert_eq!(tasks, chunks, "{pool:?}");
            assert_eq!(insights.workers().len(), workers);
        }
    });
}

#[test]
fn a_worker_that_waits_in_a_task_for_another_is_busy_once() {
    watchdog(60, || {
        let pool = std::sync::Arc::new(watched(1).build().unwrap());
        let inner = std::sync::Arc::clone(&pool);
        let begun = Instant::now();
        let nested = move || inner.map(|_| sleep(ms(10)), [(); 3]).unwrap().len();
        assert_eq!(pool.apply(nested, ()).unwrap(), 3);
        let wall = begun.elapsed();
        let insights = pool.insights().unwrap();
        let worker = &insights.workers()[0];
        assert!(worker.busy() >= ms(30) && worker.busy() <= wall, "{worker:?} in {wall:?}");
        assert!(worker.tasks() >= 2);
    });
}

#[test]
fn a_worker_is_busy_waiting_or_starting() {
    watchdog(60, || {
        let slow_start = || sleep(ms(20));
        let begun = Instant::now();
        let pool = watched(2).initializer(slow_start, ()).build().unwrap();
        pool.map(|_| sleep(ms(30)), [(); 1]).unwrap();
        let insights = pool.insights().unwrap();
        let wall = begun.elapsed();
        for worker in insights.workers() {
            assert!(worker.start_up() >= ms(20));
            assert!(worker.start_up() + worker.busy() + worker.waiting() <= wall);
        }
        let total: Duration = insights.workers().iter().map(|worker| worker.busy()).sum();
        assert!(total >= ms(30));
        assert!(insights.workers().iter().any(|worker| worker.waiting() >= ms(30)));
    });
}

#[test]
#[cfg_attr(miri, ignore = "looks at how long things take")]
fn the_longest_item_is_found_by_its_index_and_blamed() {
    watchdog(60, || {
        let pool = watched(2).build().unwrap();
        let nap = |i: usize| sleep(if i == 13 { ms(100) } else { ms(1) });
        pool.map(nap, (0..20).collect::<Vec<_>>()).unwrap();
        pool.map(nap, 0..20).unwrap();
        assert_eq!(pool.imap(nap, 0..20).count(), 20);
        pool.map_async(nap, 0..20).get().unwrap();
        for call in pool.insights().unwrap().calls() {
            assert_eq!(call.longest()[0].items(), 13..14, "{}", call.verb());
            assert!(call.longest()[0].duration() >= ms(100));
            assert_eq!(call.bottleneck(), Some(Bottleneck::Straggler(13)), "{call:?}");
        }
        let few = watched(2).build().unwrap();
        few.chunksize(100).map(nap, 0..12).unwrap();
        assert_eq!(last(&few).bottleneck(), Some(Bottleneck::FewChunks));
    });
}

#[test]
#[cfg_attr(miri, ignore = "looks at how long things take")]
fn slow_inputs_and_slow_consumers_are_blamed() {
    watchdog(60, || {
        let pool = watched(2).build().unwrap();
        let slow = || (0..20).inspect(|_| sleep(ms(5)));
        pool.map(|x| x, slow()).unwrap();
        pool.map_async(|x| x, slow()).get().unwrap();
        assert_eq!(pool.imap(|x| x, slow()).count(), 20);
        for call in pool.insights().unwrap().calls() {
            assert_eq!(call.bottleneck(), Some(Bottleneck::SlowInput), "{call:?}");
        }
        for _ in pool.imap(|x| x, 0..20) {
            sleep(ms(5));
        }
        assert_eq!(last(&pool).bottleneck(), Some(Bottleneck::SlowConsumer));
        assert_eq!(pool.imap(|_| sleep(ms(5)), 0..40).count(), 40);
        assert_eq!(last(&pool).bottleneck(), None);
    });
}

#[test]
fn the_queue_is_as_deep_as_it_was() {
    watchdog(60, || {
        let pool = watched(1).build().unwrap();
        let (go, gate) = crossbeam_channel::bounded::<()>(0);
        let held = pool.apply_async(move || gate.recv().unwrap(), ());
        let others: Vec<_> = (0..10).map(|i| pool.apply_async(move || i, ())).collect();
        go.send(()).unwrap();
        held.get().unwrap();
        assert!(others.into_iter().map(|other| other.get().unwrap()).eq(0..10));
        // Nine wait when the first of the ten is begun; the one that was held was alone or not.
        assert!((9..=10).contains(&last(&pool).queue_depth()), "{}", last(&pool).queue_depth());
    });
}

#[test]
fn failed_calls_are_there_and_only_the_last_ones_are_kept() {
    quiet();
    watchdog(60, || {
        let pool = watched(2).build().unwrap();
        pool.map(|x| assert_ne!(x, 50, "{ON_PURPOSE}"), 0..100).unwrap_err();
        let call = last(&pool);
        assert!(call.items() < 100 && call.duration() > Duration::ZERO);
        for size in 1..100 {
            pool.chunksize(size).map(|x| x, 0..fewer(10, 1)).unwrap();
        }
        let insights = pool.insights().unwrap();
        let sizes: Vec<_> = insights.calls().iter().map(|call| call.chunksize().unwrap()).collect();
        assert_eq!(sizes, (68..100).collect::<Vec<_>>());
    });
}

#[test]
fn the_picture_and_the_trace_hold_each_chunk() {
    watchdog(60, || {
        let pool = watched(2).build().unwrap();
        pool.chunksize(5).map(|_| sleep(ms(1)), 0..100).unwrap();
        let insights = pool.insights().unwrap();
        let svg = insights.to_svg();
        let picture = roxmltree::Document::parse(&svg).unwrap();
        let bars: Vec<_> =
            picture.descendants().filter(|node| node.has_tag_name("title")).collect();
        assert_eq!(bars.len(), 20);
        let marked =
            picture.descendants().filter(|node| node.attribute("class") == Some("longest"));
        assert_eq!(marked.count(), 1);
        for bar in &bars {
            let bar = bar.parent().unwrap();
            let number = |name| bar.attribute(name).unwrap().parse::<f64>().unwrap();
            assert!(number("x") >= 84.0 && number("x") + number("width") <= 960.0);
        }
        let trace: serde_json::Value = serde_json::from_str(&insights.to_chrome_trace()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let chunks: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
        let first: HashSet<_> =
            chunks.iter().map(|chunk| chunk["args"]["first"].as_u64()).collect();
        assert_eq!(first, (0..20).map(|chunk| Some(5 * chunk)).collect());
        assert!(chunks.iter().all(|chunk| chunk["dur"].as_f64().unwrap() >= 5000.0));
        // Nothing to draw is no error.
        let empty = watched(1).build().unwrap().insights().unwrap();
        roxmltree::Document::parse(&empty.to_svg()).unwrap();
        serde_json::from_str::<serde_json::Value>(&empty.to_chrome_trace()).unwrap();
    });
}

#[test]
fn the_tables_have_a_line_for_each_worker_and_each_call() {
    watchdog(60, || {
        let pool = watched(3).build().unwrap();
        assert_eq!(pool.insights().unwrap().to_string().lines().count(), 4);
        pool.chunksize(7).map(|x| x, 0..100).unwrap();
        assert_eq!(pool.imap(|x| x, 0..100).count(), 100);
        let text = pool.insights().unwrap().to_string();
        assert_eq!(text.lines().count(), 8, "{text}");
        assert!(text.contains("map by 7    100"), "{text}");
        assert!(text.contains("of 3"), "{text}");
    });
}
