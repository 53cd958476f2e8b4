//! A chunk at work: items in, results and panics out.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::error::MpiError;
use crate::panic::{catch, discard, message_of};
use crate::wire::{self, HEADER, Header, Kind, Portable};

/// What became of the items of a chunk.
#[derive(Debug)]
pub(crate) struct Output<R> {
    pub(crate) values: Vec<R>,
    /// The items that have no value, by their place in the chunk, with the message of the panic.
    pub(crate) panics: Vec<(usize, String)>,
    pub(crate) nanos: u64,
    /// Who made them.
    pub(crate) rank: usize,
}

impl<R> Output<R> {
    /// That of a chunk which nobody wants any more.
    fn none() -> Self {
        Output { values: Vec::new(), panics: Vec::new(), nanos: 0, rank: 0 }
    }

    /// How many items have an outcome.
    pub(crate) fn len(&self) -> usize {
        self.values.len() + self.panics.len()
    }
}

/// What is done with the items of a call.
pub(crate) struct Work<F> {
    pub(crate) f: F,
    /// An item that panics is an item's business: the others of its chunk are done all the same.
    pub(crate) each: bool,
}

impl<F> Work<F> {
    /// Runs the chunk that begins at item `first`, unless that is not below `limit`.
    pub(crate) fn run<T, R>(&self, first: usize, items: Vec<T>, limit: &AtomicUsize) -> Output<R>
    where
        F: Fn(T) -> R,
    {
        // ORDERING: only a hint that saves work; what counts is what rank 0 does with the answer.
        if first >= limit.load(Ordering::Relaxed) {
            discard(items);
            return Output::none();
        }
        let begun = Instant::now();
        let mut values = Vec::with_capacity(items.len());
        let mut panics = Vec::new();
        let mut items = items.into_iter();
        let mut place = 0;
        while let Err(payload) = catch(|| {
            for item in items.by_ref() {
                place += 1;
                values.push((self.f)(item));
            }
        }) {
            panics.push((place - 1, message_of(payload)));
            if !self.each {
                break;
            }
        }
        discard(items);
        Output { values, panics, nanos: begun.elapsed().as_nanos() as u64, rank: 0 }
    }
}

/// Makes the answer to the message that a chunk came in.
pub(crate) trait Job: Send + Sync {
    fn answer(&self, message: Vec<u8>, limit: &AtomicUsize) -> Vec<u8>;
}

/// A closure with the types of its items and values.
pub(crate) struct Typed<F, T, R> {
    work: Work<F>,
    types: std::marker::PhantomData<fn(T) -> R>,
}

impl<F, T, R> Typed<F, T, R> {
    pub(crate) fn new(f: F, each: bool) -> Self {
        Typed { work: Work { f, each }, types: std::marker::PhantomData }
    }
}

impl<F, T, R> Job for Typed<F, T, R>
where
    F: Fn(T) -> R + Send + Sync,
    T: Portable,
    R: Portable,
{
    fn answer(&self, message: Vec<u8>, limit: &AtomicUsize) -> Vec<u8> {
        answer(&self.work, message, limit)
    }
}

/// The same for a closure that is only lent.
pub(crate) fn answer<F, T, R>(work: &Work<F>, message: Vec<u8>, limit: &AtomicUsize) -> Vec<u8>
where
    F: Fn(T) -> R,
    T: Portable,
    R: Portable,
{
    let (header, body) = Header::read(&message).expect("it was read before");
    // Bytes are made and read by the items' own code, which may panic.
    let made = catch(|| {
        let items = wire::unpack::<T>(body, header.count as usize)?;
        let output = work.run(header.first as usize, items, limit);
        let answer = write(header, &output);
        discard(output);
        answer
    });
    let error = match made {
        Ok(Ok(answer)) => return answer,
        Ok(Err(error)) => error,
        Err(payload) => {
            let why = message_of(payload);
            MpiError::Codec(format!("items could not be made into bytes or back: {why}"))
        }
    };
    header.with(Kind::Failed).message(&error.to_bytes())
}

fn write<R: Portable>(header: Header, output: &Output<R>) -> Result<Vec<u8>, MpiError> {
    let panics = wire::plain(&output.panics);
    let mut message = Vec::with_capacity(HEADER + 8 + panics.len() + size_of_val(&*output.values));
    let count = output.values.len() as u64;
    Header { kind: Kind::Done, count, nanos: output.nanos, ..header }.begin(&mut message);
    message.extend_from_slice(&(panics.len() as u64).to_le_bytes());
    message.extend_from_slice(&panics);
    wire::pack(&output.values, &mut message)?;
    Ok(message)
}

/// The output that an answer was made of.
pub(crate) fn read<R: Portable>(
    header: Header,
    body: &[u8],
    rank: usize,
) -> Result<Output<R>, MpiError> {
    let broken = || MpiError::Codec("an answer was cut short".to_owned());
    let (len, rest) = body.split_first_chunk::<8>().ok_or_else(broken)?;
    let len = u64::from_le_bytes(*len) as usize;
    let (panics, values) = rest.split_at_checked(len).ok_or_else(broken)?;
    Ok(Output {
        values: wire::unpack(values, header.count as usize)?,
        panics: wire::read_plain(panics)?,
        nanos: header.nanos,
        rank,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    static ALL: AtomicUsize = AtomicUsize::new(usize::MAX);

    fn odd(x: i32) -> i32 {
        if x % 2 == 0 { std::panic::resume_unwind(Box::new(format!("{x}"))) } else { x }
    }

    #[test]
    fn a_panic_ends_the_chunk_or_the_item() {
        let output = Work { f: odd, each: false }.run(0, vec![1, 2, 3, 4], &ALL);
        assert_eq!((output.values, output.panics), (vec![1], vec![(1, "2".to_owned())]));
        let output = Work { f: odd, each: true }.run(0, vec![1, 2, 3, 4, 5], &ALL);
        assert_eq!(output.values, [1, 3, 5]);
        assert_eq!(output.panics, [(1, "2".to_owned()), (3, "4".to_owned())]);
    }

    #[test]
    fn what_begins_at_the_limit_is_skipped() {
        let work = Work { f: |x: i32| x, each: false };
        let limit = AtomicUsize::new(10);
        assert_eq!(work.run(9, vec![1, 2], &limit).values, [1, 2]);
        assert_eq!(work.run(10, vec![1, 2], &limit).len(), 0);
    }

    #[test]
    fn an_answer_travels() {
        let header =
            Header { kind: Kind::Chunk, call: 3, what: 4, task: 0, first: 20, count: 3, nanos: 0 };
        let mut message = Vec::new();
        header.begin(&mut message);
        wire::pack(&vec![1i32, 2, 3], &mut message).expect("it is short");
        let answer = Typed::new(odd, true).answer(message, &ALL);
        let (header, body) = Header::read(&answer).expect("it is one");
        assert_eq!((header.kind, header.call, header.first, header.count), (Kind::Done, 3, 20, 2));
        let output = read::<i32>(header, body, 1).expect("it was written");
        assert_eq!(output.values, [1, 3]);
        assert_eq!(output.panics, [(1, "2".to_owned())]);
        assert!(read::<i32>(header, &body[..5], 1).is_err());
    }

    #[test]
    fn items_that_cannot_be_read_are_an_error() {
        let header = Header { count: 3, ..Header::of(Kind::Chunk) };
        let answer = Typed::new(|x: String| x, true).answer(header.message(&[1]), &ALL);
        let (header, body) = Header::read(&answer).expect("it is one");
        assert_eq!(header.kind, Kind::Failed);
        assert!(matches!(MpiError::from_bytes(body), MpiError::Codec(_)));
    }
}
