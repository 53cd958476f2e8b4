//! The side of a call that hands out: on rank 0.

use std::cell::RefMut;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use crate::core::{Call, Core};
use crate::error::MpiError;
use crate::handout::Handout;
use crate::link::{Event, NAP};
use crate::panic::{catch, discard, message_of};
use crate::task::{self, Output};
use crate::wire::{self, Header, Kind, Portable};

/// One call, as far as rank 0 is concerned.
pub(crate) struct Root<'p, 's, I: Iterator, R> {
    core: RefMut<'p, Core>,
    head: Header,
    call: Call,
    /// `None` once it has ended.
    items: Option<I>,
    /// How many items were pulled.
    pulled: usize,
    pub(crate) out: Handout,
    /// Has a worker of this rank run the chunk that begins at the item given.
    compute: Box<Compute<'s, I::Item>>,
    /// What these workers have done: the chunk's first item, and its outcome.
    local: Receiver<(usize, Output<R>)>,
    /// The chunks that somebody has, by their first items.
    flying: HashMap<usize, Flight>,
    /// Chunks of ranks that are gone.
    again: Vec<(usize, Flight)>,
    /// The chunks that are done and that nobody has asked for.
    pub(crate) ready: VecDeque<(usize, Output<R>)>,
    /// An item that panics is an item's business.
    each: bool,
    /// A portion of the input is cut short when pulling it takes long.
    hasty: bool,
    /// What the call ends with.
    fault: Option<MpiError>,
    /// What it ends with when all that was pulled is done.
    end: Option<MpiError>,
    /// Chunks that begin here or above need not be done.
    limit: Arc<AtomicUsize>,
}

pub(crate) type Compute<'s, T> = dyn Fn(usize, Vec<T>) + 's;

/// A chunk that somebody has.
struct Flight {
    rank: usize,
    items: usize,
    /// What was sent, in case it has to be sent again; `None` if it is here.
    message: Option<Rc<Vec<u8>>>,
}

/// What a call was given besides its closure.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) chunksize: Option<usize>,
    pub(crate) buffersize: Option<usize>,
}

/// A portion of a slow input is cut short when pulling it has taken this long.
const PORTION: Duration = Duration::from_micros(50);

/// How many bytes of memory are reserved at once for items of which it is not known how many come. More is
/// reserved as they do.
const RESERVED: usize = 64 << 10;

impl<'p, 's, I, R> Root<'p, 's, I, R>
where
    I: Iterator<Item: Portable>,
    R: Portable,
{
    #[expect(clippy::too_many_arguments, reason = "called in two places, with all of a call")]
    pub(crate) fn new(
        core: RefMut<'p, Core>,
        (head, call): (Header, Call),
        items: I,
        settings: Settings,
        each: bool,
        limit: Arc<AtomicUsize>,
        compute: Box<Compute<'s, I::Item>>,
        local: Receiver<(usize, Output<R>)>,
    ) -> Self {
        let Settings { chunksize, buffersize } = settings;
        let (low, high) = items.size_hint();
        let len = (Some(low) == high).then_some(low);
        let mut out = Handout::new(&core.workers, core.inline, chunksize, buffersize, len, each);
        let mut root = Root {
            head,
            call,
            items: Some(items),
            pulled: 0,
            compute,
            local,
            flying: HashMap::new(),
            again: Vec::new(),
            ready: VecDeque::new(),
            each,
            hasty: each && chunksize.is_none(),
            fault: None,
            end: None,
            limit,
            out: {
                (1..core.link.size).filter(|r| core.link.is_lost(*r)).for_each(|r| out.lose(r));
                out
            },
            core,
        };
        if let Some(rank) = root.core.left.iter().position(|left| *left) {
            root.left_by(rank);
        }
        root
    }

    /// Looks at what has come and hands out what can be; false if there was nothing to do.
    ///
    /// `here` says whether this thread may compute itself, if that is how rank 0 does.
    pub(crate) fn step(&mut self, here: bool) -> bool {
        let mut moved = false;
        while let Some(event) = self.core.link.receive() {
            moved = true;
            match event {
                Event::Message(rank, message) => {
                    if let Err(error) = self.take(rank, &message) {
                        self.fail(error);
                    }
                }
                Event::Lost(rank, reason) => self.lose(rank, reason),
            }
        }
        while let Ok((first, output)) = self.local.try_recv() {
            moved = true;
            self.take_local(first, output);
        }
        self.hand_out(here) || moved
    }

    /// Passes the time until something may have come.
    pub(crate) fn pause(&mut self) {
        let has = self.out.has(0);
        let busy = has > 0 && has >= self.core.workers[0];
        if let Some((first, output)) = self.core.link.idle.pause_for(&self.local, busy) {
            self.take_local(first, output);
        }
    }

    /// Whether all that is to be done is.
    pub(crate) fn is_over(&self) -> bool {
        !self.has_more() && self.flying.is_empty()
    }

    /// Whether it is well so far.
    pub(crate) fn is_well(&self) -> bool {
        self.fault.is_none() && self.end.is_none()
    }

    fn limit(&self) -> usize {
        // ORDERING: only this thread writes it.
        self.limit.load(Ordering::Relaxed)
    }

    /// Whether there are chunks to hand out, or may be.
    fn has_more(&self) -> bool {
        let limit = self.limit();
        self.again.iter().any(|(first, _)| *first < limit)
            || (self.items.is_some() && self.pulled < limit)
    }

    fn take(&mut self, rank: usize, message: &[u8]) -> Result<(), MpiError> {
        let (header, body) = Header::read(message)?;
        match header.kind {
            Kind::Bye => {
                self.core.goodbye(rank, header);
                self.left_by(rank);
            }
            Kind::Diverged => {
                self.forget(rank);
                let there = String::from_utf8_lossy(body);
                let text = format!("{there}, while rank 0 is in {}", self.call.text());
                return Err(MpiError::Diverged(text));
            }
            Kind::Done | Kind::Failed if header.call == self.head.call => {
                let first = header.first as usize;
                let Some(flight) = self.flying.remove(&first) else { return Ok(()) };
                if header.kind == Kind::Failed {
                    self.out.done(rank, 0, 0, 0);
                    return Err(MpiError::from_bytes(body));
                }
                let sent = flight.message.map_or(0, |message| message.len());
                self.out.done(rank, flight.items, header.nanos, body.len().max(sent));
                self.accept(first, flight.items, task::read(header, body, rank)?);
            }
            _ => {}
        }
        Ok(())
    }

    fn take_local(&mut self, first: usize, output: Output<R>) {
        if let Some(flight) = self.flying.remove(&first) {
            self.out.done(0, flight.items, output.nanos, 0);
            self.accept(first, flight.items, output);
        }
    }

    /// The outcome of `items` items.
    fn accept(&mut self, first: usize, items: usize, output: Output<R>) {
        match output.panics.first() {
            Some((place, message)) if !self.each => {
                let index = first + place;
                if index < self.limit() {
                    let (rank, message) = (output.rank, message.clone());
                    self.fault = Some(MpiError::Panicked { index, rank, message });
                    self.stop(index);
                }
                discard(output);
            }
            // What was skipped is less.
            _ if output.len() == items => self.ready.push_back((first, output)),
            _ => discard(output),
        }
    }

    /// Nothing that begins at item `limit` or above need be done.
    pub(crate) fn stop(&mut self, limit: usize) {
        // ORDERING: a hint for this rank's workers, see `Work::run`.
        self.limit.store(limit, Ordering::Relaxed);
        if !self.flying.is_empty() {
            let stop = Header { first: limit as u64, ..self.head.with(Kind::Stop) };
            self.core.link.send_to_all(&Rc::new(stop.message(&[])));
        }
    }

    /// The call is over but for what runs. That ranks are out of step outweighs what else there is.
    fn fail(&mut self, error: MpiError) {
        let diverged = |fault: &MpiError| matches!(fault, MpiError::Diverged(_));
        let first = match &self.fault {
            None | Some(MpiError::Panicked { .. }) => true,
            Some(fault) => diverged(&error) && !diverged(fault),
        };
        if first {
            self.fault = Some(error);
        }
        self.stop(0);
    }

    fn left_by(&mut self, rank: usize) {
        self.forget(rank);
        let text = format!("rank {rank} has left, while rank 0 is in {}", self.call.text());
        self.fail(MpiError::Diverged(text));
    }

    /// Rank `rank` will not answer.
    fn forget(&mut self, rank: usize) {
        self.flying.retain(|_, flight| flight.rank != rank);
        self.out.lose(rank);
    }

    /// Rank `rank` is gone: the others do what it had.
    fn lose(&mut self, rank: usize, reason: String) {
        let of_rank = |(_, flight): &(&usize, &Flight)| flight.rank == rank;
        let chunks: Vec<usize> =
            self.flying.iter().filter(of_rank).map(|(first, _)| *first).collect();
        let again = chunks.into_iter().filter_map(|first| self.flying.remove_entry(&first));
        self.again.extend(again);
        self.out.lose(rank);
        if !self.out.has_workers() {
            self.fail(MpiError::RankLost { rank, reason });
        }
    }

    /// Hands out what can be; false if that is nothing.
    fn hand_out(&mut self, here: bool) -> bool {
        let mut moved = false;
        while self.has_more() {
            let Some(rank) = self.out.seat() else { break };
            let inline = rank == 0 && self.core.inline;
            if inline && !here {
                break;
            }
            match self.hand_to(rank) {
                Ok(true) => moved = true,
                Ok(false) => break,
                Err(error) => self.fail(error),
            }
            if inline {
                break;
            }
        }
        moved
    }

    /// Gives rank `rank` a chunk; false if there is none for now.
    fn hand_to(&mut self, rank: usize) -> Result<bool, MpiError> {
        if let Some((first, flight)) = self.again.pop() {
            let message = flight.message.expect("it was sent");
            self.out.give_again(rank);
            if rank == 0 {
                let (_, body) = Header::read(&message)?;
                let items = wire::unpack(body, flight.items)?;
                self.flying.insert(first, Flight { rank, message: None, ..flight });
                self.compute(first, items);
            } else {
                self.send(rank, first, flight.items, message);
            }
            return Ok(true);
        }
        let size = self.out.size();
        let items = if size == 0 { Vec::new() } else { self.pull(size) };
        if items.is_empty() {
            return Ok(false);
        }
        let (first, count) = (self.pulled, items.len());
        self.pulled += count;
        if rank == 0 {
            self.out.give(rank, count);
            self.flying.insert(first, Flight { rank, items: count, message: None });
            self.compute(first, items);
            return Ok(true);
        }
        let header = Header { first: first as u64, count: count as u64, ..self.head };
        let mut message = Vec::with_capacity(wire::HEADER + size_of_val(&*items));
        header.begin(&mut message);
        let packed = wire::pack(&items, &mut message);
        discard(items);
        packed?;
        self.out.give(rank, count);
        self.send(rank, first, count, Rc::new(message));
        Ok(true)
    }

    fn compute(&mut self, first: usize, items: Vec<I::Item>) {
        if self.core.inline && self.out.time().is_none_or(|time| time > NAP) {
            // The others should have their chunks before this thread is away for long.
            self.core.link.flush_briefly();
        }
        (self.compute)(first, items);
    }

    fn send(&mut self, rank: usize, first: usize, items: usize, message: Rc<Vec<u8>>) {
        self.core.link.send(rank, Rc::clone(&message));
        self.flying.insert(first, Flight { rank, items, message: Some(message) });
    }

    /// Up to `size` items of the input. Its panic ends the call after what was pulled before.
    fn pull(&mut self, size: usize) -> Vec<I::Item> {
        let Some(mut input) = self.items.take() else { return Vec::new() };
        // A chunk may be of more items than come.
        let reserved = RESERVED / size_of::<I::Item>().max(1);
        let mut items = Vec::with_capacity(size.min(reserved.max(1)));
        let (hasty, begun) = (self.hasty, Instant::now());
        let pulled = catch(|| {
            while items.len() < size {
                match input.next() {
                    Some(item) => items.push(item),
                    None => return false,
                }
                if hasty && items.len().is_power_of_two() && begun.elapsed() > PORTION {
                    break;
                }
            }
            true
        });
        match pulled {
            Ok(true) => self.items = Some(input),
            Ok(false) => discard(input),
            Err(payload) => {
                discard(input);
                let (index, message) = (self.pulled + items.len(), message_of(payload));
                self.end = Some(MpiError::Panicked { index, rank: 0, message });
            }
        }
        items
    }

    /// Works until all is done.
    pub(crate) fn run(&mut self) {
        loop {
            let moved = self.step(true);
            if self.is_over() {
                return;
            }
            if !moved {
                self.pause();
            }
        }
    }

    /// Sends `values`, which begin with that of item `first`, to all other ranks.
    pub(crate) fn publish(&mut self, first: usize, values: &Vec<R>) -> Result<(), MpiError> {
        let (first, count) = (first as u64, values.len() as u64);
        let mut message = Vec::with_capacity(wire::HEADER + size_of_val(&**values));
        Header { first, count, ..self.head.with(Kind::Part) }.begin(&mut message);
        wire::pack(values, &mut message)?;
        self.core.link.send_to_all(&Rc::new(message));
        Ok(())
    }

    /// Ends the call on all ranks, with the error that it has or `error`.
    pub(crate) fn finish(&mut self, error: Option<MpiError>) -> Result<(), MpiError> {
        let error = self.fault.take().or(self.end.take()).or(error);
        let body = error.as_ref().map(MpiError::to_bytes).unwrap_or_default();
        let message = Rc::new(self.head.with(Kind::End).message(&body));
        self.core.link.send_to_all(&message);
        // This rank may be away for long, and what is long is not sent without it.
        self.core.link.flush();
        match error {
            Some(error) => {
                self.core.remember(&error);
                Err(error)
            }
            None => Ok(()),
        }
    }
}
