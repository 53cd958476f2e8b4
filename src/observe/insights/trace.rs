//! Insights as trace events, the JSON of Chrome's trace viewer.

use std::fmt::Write;
use std::time::Duration;

use super::{Insights, report};

pub(super) fn write(insights: &Insights) -> String {
    let mut events = Vec::new();
    for worker in &insights.workers {
        let index = worker.index;
        events.push(format!(
            r#"{{"ph":"M","pid":1,"tid":{index},"name":"thread_name","args":{{"name":"worker {index}"}}}}"#
        ));
    }
    // Every string below is this crate's own, so there is nothing to escape.
    for (number, call) in insights.calls.iter().enumerate() {
        for (worker, lane) in call.lanes.iter().enumerate() {
            for bar in lane {
                let (at, took) = (micros(call.begun + bar.begun), micros(bar.ended - bar.begun));
                let (verb, items) = (call.verb, report::items(bar.first, bar.items));
                let (first, count, chunks) = (bar.first, bar.items, bar.chunks);
                events.push(format!(
                    r#"{{"ph":"X","pid":1,"tid":{worker},"name":"{verb}","cat":"call {number}","ts":{at},"dur":{took},"args":{{"call":{number},"what":"{items}","first":{first},"items":{count},"chunks":{chunks}}}}}"#
                ));
            }
        }
    }
    let mut text = String::from("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
    // Cannot fail: it goes to memory.
    let _ = write!(text, "{}\n]}}\n", events.join(",\n"));
    text
}

/// With the nanoseconds behind the point.
fn micros(time: Duration) -> String {
    format!("{}.{:03}", time.as_micros(), time.subsec_nanos() % 1000)
}
