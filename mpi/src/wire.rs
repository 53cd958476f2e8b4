//! What messages are made of: a header, and items as bytes.

use std::any::Any;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::MpiError;

/// What can travel between ranks: anything that `serde` can make into bytes and back, and that owns what
/// it has.
///
/// Nobody implements it; deriving `Serialize` and `Deserialize` does. Vectors of numbers, and items that
/// are vectors of numbers, travel as they lie in memory; everything else goes by `postcard`.
///
/// Python: what can be pickled.
///
/// ```
/// use parpool_mpi::Portable;
///
/// fn travels<T: Portable>() {}
/// travels::<f64>();
/// travels::<(String, Vec<Option<u8>>)>();
/// ```
pub trait Portable: Serialize + DeserializeOwned + Send + 'static {}

impl<T: Serialize + DeserializeOwned + Send + 'static> Portable for T {}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To rank 0 when a pool begins: who I am.
    Hello,
    /// From rank 0 when a pool begins: how many workers everybody has.
    Welcome,
    /// Items to work on.
    Chunk,
    /// What begins at item `first` or above it need not be done.
    Stop,
    /// Some of the results, for a rank that wants them all.
    Part,
    /// The end of a call, with the error of all ranks if there is one.
    End,
    /// The results of a chunk.
    Done,
    /// Instead of the results of a chunk: the error that the call ends with.
    Failed,
    /// Instead of any answer: this rank is in another call; the text says in which.
    Diverged,
    /// The last message of a pool, both ways.
    Bye,
}

const KINDS: [Kind; 10] = [
    Kind::Hello,
    Kind::Welcome,
    Kind::Chunk,
    Kind::Stop,
    Kind::Part,
    Kind::End,
    Kind::Done,
    Kind::Failed,
    Kind::Diverged,
    Kind::Bye,
];

/// The numbers in front of each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    /// Which call of the pool it belongs to, counted from 1.
    pub(crate) call: u64,
    /// What the call is, made of its verb, its types and its place in the source.
    pub(crate) what: u64,
    /// Which of the registered closures, where there are such.
    pub(crate) task: u64,
    /// The index of the first item.
    pub(crate) first: u64,
    /// How many items, or results.
    pub(crate) count: u64,
    /// How long the items took.
    pub(crate) nanos: u64,
}

/// How long a header is.
pub(crate) const HEADER: usize = 7 * 8;

impl Header {
    pub(crate) fn of(kind: Kind) -> Self {
        Header { kind, call: 0, what: 0, task: 0, first: 0, count: 0, nanos: 0 }
    }

    /// The same call's message of another kind.
    pub(crate) fn with(self, kind: Kind) -> Self {
        Header { kind, ..self }
    }

    /// A message of this and `body`.
    pub(crate) fn message(self, body: &[u8]) -> Vec<u8> {
        let mut message = Vec::with_capacity(HEADER + body.len());
        self.begin(&mut message);
        message.extend_from_slice(body);
        message
    }

    /// Puts it at the end of `message`, which is empty.
    pub(crate) fn begin(self, message: &mut Vec<u8>) {
        let kind = self.kind as u64;
        for number in [kind, self.call, self.what, self.task, self.first, self.count, self.nanos] {
            message.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// Splits a message into header and body.
    pub(crate) fn read(message: &[u8]) -> Result<(Header, &[u8]), MpiError> {
        let broken = || MpiError::Codec("a message of another program came in".to_owned());
        let (head, body) = message.split_at_checked(HEADER).ok_or_else(broken)?;
        let number = |nth: usize| {
            let bytes = head[8 * nth..8 * nth + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        let kind =
            *usize::try_from(number(0)).ok().and_then(|k| KINDS.get(k)).ok_or_else(broken)?;
        let header = Header {
            kind,
            call: number(1),
            what: number(2),
            task: number(3),
            first: number(4),
            count: number(5),
            nanos: number(6),
        };
        Ok((header, body))
    }
}

/// The longest message: what fits MPI's count of bytes.
const LONGEST: usize = i32::MAX as usize;

/// Refuses a message of `bytes` bytes, if that is too long.
pub(crate) fn check(bytes: usize) -> Result<(), MpiError> {
    if bytes > LONGEST { Err(MpiError::TooLarge { bytes }) } else { Ok(()) }
}

/// A small value as bytes.
pub(crate) fn plain<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("numbers and texts have bytes")
}

pub(crate) fn read_plain<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, MpiError> {
    postcard::from_bytes(bytes).map_err(|error| unreadable::<T>(&error))
}

fn unreadable<T>(error: &postcard::Error) -> MpiError {
    let name = std::any::type_name::<T>();
    MpiError::Codec(format!("a `{name}` could not be read from its bytes: {error}"))
}

/// Puts `items` at the end of `message`.
///
/// Refused before it takes the memory, where that can be known: of numbers.
pub(crate) fn pack<T: Portable>(items: &Vec<T>, message: &mut Vec<u8>) -> Result<(), MpiError> {
    if pack_numbers(items, message)? {
        return Ok(());
    }
    for item in items {
        let mut to = postcard::Serializer {
            output: postcard::ser_flavors::ExtendFlavor::new(std::mem::take(message)),
        };
        let written = item.serialize(&mut to);
        *message = postcard::ser_flavors::Flavor::finalize(to.output).expect("a `Vec` grows");
        written.map_err(|error| {
            let name = std::any::type_name::<T>();
            MpiError::Codec(format!("a `{name}` could not be made into bytes: {error}"))
        })?;
    }
    check(message.len())
}

/// The `count` items that `bytes` was made of.
pub(crate) fn unpack<T: Portable>(bytes: &[u8], count: usize) -> Result<Vec<T>, MpiError> {
    if let Some(items) = unpack_numbers(bytes, count)? {
        return Ok(items);
    }
    // Not more room than there are bytes: the count is from outside. (Items may have none: `()`.)
    let mut items = Vec::with_capacity(count.min(bytes.len()));
    let mut rest = bytes;
    for _ in 0..count {
        let (item, left) =
            postcard::take_from_bytes(rest).map_err(|error| unreadable::<T>(&error))?;
        items.push(item);
        rest = left;
    }
    if rest.is_empty() { Ok(items) } else { Err(too_many::<T>()) }
}

fn too_many<T>() -> MpiError {
    let name = std::any::type_name::<T>();
    MpiError::Codec(format!("the bytes of some `{name}` are not as many as they should be"))
}

/// A number that travels as it lies in memory (where that is little-endian, as it mostly is).
trait Number: Copy + 'static {
    const SIZE: usize;
    fn put(self, place: &mut [u8]);
    fn get(place: &[u8]) -> Self;
}

fn put_numbers<N: Number>(numbers: &[N], message: &mut Vec<u8>) {
    let start = message.len();
    message.resize(start + numbers.len() * N::SIZE, 0);
    for (number, place) in numbers.iter().zip(message[start..].chunks_exact_mut(N::SIZE)) {
        number.put(place);
    }
}

fn get_numbers<N: Number>(bytes: &[u8]) -> Vec<N> {
    bytes.chunks_exact(N::SIZE).map(N::get).collect()
}

/// Packs vectors of numbers with their lengths in front.
fn put_vectors<N: Number>(vectors: &[Vec<N>], message: &mut Vec<u8>) {
    for vector in vectors {
        message.extend_from_slice(&(vector.len() as u64).to_le_bytes());
        put_numbers(vector, message);
    }
}

fn get_vectors<N: Number>(bytes: &[u8], count: usize) -> Option<Vec<Vec<N>>> {
    let mut vectors = Vec::with_capacity(count.min(bytes.len()));
    let mut rest = bytes;
    for _ in 0..count {
        let (len, body) = rest.split_first_chunk::<8>()?;
        let len = usize::try_from(u64::from_le_bytes(*len)).ok()?.checked_mul(N::SIZE)?;
        let (vector, left) = body.split_at_checked(len)?;
        vectors.push(get_numbers(vector));
        rest = left;
    }
    rest.is_empty().then_some(vectors)
}

macro_rules! numbers {
    ($($number:ty)*) => {
        $(impl Number for $number {
            const SIZE: usize = size_of::<$number>();
            #[inline]
            fn put(self, place: &mut [u8]) {
                place.copy_from_slice(&self.to_le_bytes());
            }
            #[inline]
            fn get(place: &[u8]) -> Self {
                Self::from_le_bytes(place.try_into().expect("as many bytes as it has"))
            }
        })*

        /// Packs `items` if they are numbers or vectors of numbers; false if they are not.
        #[expect(clippy::ptr_arg, reason = "what is downcast must have a size")]
        fn pack_numbers<T: 'static>(items: &Vec<T>, message: &mut Vec<u8>) -> Result<bool, MpiError> {
            let any = items as &dyn Any;
            $(
                if let Some(numbers) = any.downcast_ref::<Vec<$number>>() {
                    check(message.len() + numbers.len() * size_of::<$number>())?;
                    put_numbers(numbers, message);
                    return Ok(true);
                }
                if let Some(vectors) = any.downcast_ref::<Vec<Vec<$number>>>() {
                    let sizes = vectors.iter().map(|vector| 8 + vector.len() * size_of::<$number>());
                    check(message.len() + sizes.sum::<usize>())?;
                    put_vectors(vectors, message);
                    return Ok(true);
                }
            )*
            Ok(false)
        }

        /// What `pack_numbers` packed; `None` if it would not have.
        fn unpack_numbers<T: 'static>(bytes: &[u8], count: usize) -> Result<Option<Vec<T>>, MpiError> {
            let mut items: Option<Vec<T>> = None;
            let any = &mut items as &mut dyn Any;
            $(
                if let Some(numbers) = any.downcast_mut::<Option<Vec<$number>>>() {
                    if count.checked_mul(size_of::<$number>()) != Some(bytes.len()) {
                        return Err(too_many::<T>());
                    }
                    *numbers = Some(get_numbers(bytes));
                    return Ok(items);
                }
                if let Some(vectors) = any.downcast_mut::<Option<Vec<Vec<$number>>>>() {
                    *vectors = Some(get_vectors(bytes, count).ok_or_else(too_many::<T>)?);
                    return Ok(items);
                }
            )*
            Ok(None)
        }
    };
}

numbers! { u8 i8 u16 i16 u32 i32 f32 u64 i64 f64 u128 i128 }

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Debug;

    fn there_and_back<T: Portable + PartialEq + Debug>(items: Vec<T>) -> usize {
        let mut bytes = Vec::new();
        pack(&items, &mut bytes).expect("it is short");
        assert_eq!(unpack::<T>(&bytes, items.len()).expect("it was packed"), items);
        bytes.len()
    }

    #[test]
    fn a_header_travels() {
        for kind in KINDS {
            let header =
                Header { kind, call: 1, what: 2, task: 3, first: 4, count: u64::MAX, nanos: 6 };
            let message = header.message(b"body");
            assert_eq!(Header::read(&message).expect("it is one"), (header, &b"body"[..]));
        }
        assert!(Header::read(b"too short").is_err());
        assert!(Header::read(&[0xff; HEADER]).is_err());
    }

    #[test]
    fn items_travel() {
        assert_eq!(there_and_back(vec![1.5f64, f64::MIN, f64::INFINITY]), 24);
        assert_eq!(there_and_back(vec![-1i128, i128::MAX]), 32);
        assert_eq!(there_and_back(vec![7u8; 100]), 100);
        assert_eq!(there_and_back(vec![vec![1.0f32, 2.0], vec![], vec![3.0]]), 3 * 8 + 3 * 4);
        assert_eq!(there_and_back(Vec::<f64>::new()), 0);
        assert_eq!(there_and_back(vec![(), (), ()]), 0);
        there_and_back(vec![1usize, usize::MAX]);
        there_and_back(vec![Some("text".to_owned()), None]);
        there_and_back(vec![(1u8, vec![2.0f64], 'ä'), (9, vec![], 'x')]);
    }

    #[test]
    fn each_kind_of_nan_travels() {
        let odd = f64::from_bits(0x7ff8_0000_dead_beef);
        let mut bytes = Vec::new();
        pack(&vec![odd], &mut bytes).expect("it is short");
        assert_eq!(unpack::<f64>(&bytes, 1).expect("one")[0].to_bits(), odd.to_bits());
    }

    #[test]
    fn wrong_bytes_are_errors() {
        assert!(unpack::<f64>(&[0; 15], 2).is_err());
        assert!(unpack::<f64>(&[0; 16], usize::MAX).is_err());
        assert!(unpack::<Vec<f64>>(&[0xff; 16], 2).is_err());
        assert!(unpack::<Vec<f64>>(&[0; 24], 2).is_err());
        assert!(unpack::<String>(&[200, 1, 2], 1).is_err());
        assert!(unpack::<bool>(&[1, 1, 1], 2).is_err());
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_takes_the_memory() {
        // Zeroed memory that is never touched.
        let long = vec![vec![0u8; LONGEST]];
        let mut message = vec![0; HEADER];
        let refused = pack(&long, &mut message);
        assert!(matches!(refused, Err(MpiError::TooLarge { bytes }) if bytes > LONGEST));
        assert_eq!(message.capacity(), HEADER);
        assert!(check(LONGEST).is_ok());
    }
}
