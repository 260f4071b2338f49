//! What is sent: words that say who sent them, in which call, to whom, and which of its words they
//! are.

use bytemuck::checked;
use spmd::{
    Datum,
    op::{Max, Min, Or, ReduceOp, Sum, Xor, commutative},
};

/// What into-forms find in their buffers before the call.
pub(crate) const BEFORE: u8 = 1;

/// A length of memory that nobody wrote, see `guard.rs`, is told by this many bytes.
const TELLING: usize = 16;

/// An element type, by which acts name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ty {
    Byte,
    Half,
    Word,
    Float,
    Flag,
    Triple,
}

impl Ty {
    pub(crate) const ALL: [Self; 6] =
        [Self::Byte, Self::Half, Self::Word, Self::Float, Self::Flag, Self::Triple];

    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Byte | Self::Flag => 1,
            Self::Half => 4,
            Self::Word | Self::Float => 8,
            Self::Triple => 24,
        }
    }
}

/// Calls the expression with `$element` standing for the type.
macro_rules! with_type {
    ($ty:expr, $element:ident => $body:expr) => {{
        use $crate::wrong::value::Ty;
        match $ty {
            Ty::Byte => {
                type $element = u8;
                $body
            }
            Ty::Half => {
                type $element = u32;
                $body
            }
            Ty::Word => {
                type $element = u64;
                $body
            }
            Ty::Float => {
                type $element = f64;
                $body
            }
            Ty::Flag => {
                type $element = bool;
                $body
            }
            Ty::Triple => {
                type $element = [u64; 3];
                $body
            }
        }
    }};
}
pub(crate) use with_type;

/// An operator, by which acts name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Sum,
    Max,
    Min,
    Or,
    Xor,
    /// A closure that does not commute.
    Last,
    /// A closure that does.
    Larger,
    /// As `Larger`, but it panics.
    Panics,
}

impl By {
    pub(crate) const RIGHT: [Self; 7] =
        [Self::Sum, Self::Max, Self::Min, Self::Or, Self::Xor, Self::Last, Self::Larger];

    pub(crate) fn is_closure(self) -> bool {
        matches!(self, Self::Last | Self::Larger | Self::Panics)
    }

    /// This operator, or one that the type has.
    pub(crate) fn on(self, ty: Ty) -> Self {
        match (ty, self) {
            (Ty::Float, Self::Sum | Self::Or | Self::Xor) => Self::Max,
            (Ty::Triple | Ty::Flag, by) if !by.is_closure() => Self::Last,
            (_, by) => by,
        }
    }
}

/// What is done with an operator whose type differs from case to case.
pub(crate) trait Reducing<T> {
    type Result;
    fn with(self, op: impl ReduceOp<T> + 'static) -> Self::Result;
}

/// A type that acts send.
pub(crate) trait Element: Datum + PartialEq + std::fmt::Debug {
    /// For a closure that looks for the larger one.
    fn rank(self) -> u64;

    fn reduce<R: Reducing<Self>>(by: By, what: R) -> R::Result {
        Self::reduce_by_closure(by, what)
    }

    fn reduce_by_closure<R: Reducing<Self>>(by: By, what: R) -> R::Result {
        let larger =
            |left: Self, right: Self| if right.rank() > left.rank() { right } else { left };
        match by {
            By::Last => what.with(|_left: Self, right: Self| right),
            By::Panics => what.with(|_: Self, _: Self| -> Self { panic!("the operator panics") }),
            _ => what.with(commutative(larger)),
        }
    }
}

macro_rules! numbers {
    ($($type:ty: $($more:ident)*;)*) => {$(
        impl Element for $type {
            fn rank(self) -> u64 {
                u64::try_from(self).unwrap_or_default()
            }

            fn reduce<R: Reducing<Self>>(by: By, what: R) -> R::Result {
                match by {
                    By::Max => what.with(Max),
                    By::Min => what.with(Min),
                    $(By::$more => what.with($more),)*
                    _ => Self::reduce_by_closure(by, what),
                }
            }
        }
    )*};
}

numbers! {
    u8: Sum Or Xor;
    u32: Sum Or Xor;
    u64: Sum Or Xor;
}

impl Element for f64 {
    fn rank(self) -> u64 {
        self.to_bits()
    }

    fn reduce<R: Reducing<Self>>(by: By, what: R) -> R::Result {
        match by {
            By::Max => what.with(Max),
            By::Min => what.with(Min),
            _ => Self::reduce_by_closure(by, what),
        }
    }
}

impl Element for bool {
    fn rank(self) -> u64 {
        self.into()
    }
}

impl Element for [u64; 3] {
    fn rank(self) -> u64 {
        self[0]
    }
}

/// What a contribution is told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The number of the program, so that what is left of another one is told from it.
    pub(crate) program: u64,
    pub(crate) act: u64,
    pub(crate) from: usize,
    /// Nobody in particular: [`Stamp::ALL`].
    pub(crate) to: usize,
}

impl Stamp {
    pub(crate) const ALL: usize = 31;

    /// Word `at`; as a float it is between 1 and 2.
    fn word(self, at: usize) -> u64 {
        let Self { program, act, from, to } = self;
        let who = (program & 0x3ff) << 42 | (act & 0x3ff) << 32;
        0x3ff << 52
            | who
            | (from as u64 & 31) << 27
            | (to as u64 & 31) << 22
            | (at as u64 & 0x3f_ffff)
    }

    /// The contribution of so many elements of the type, as bytes.
    pub(crate) fn bytes(self, ty: Ty, count: usize) -> Vec<u8> {
        let length = count * ty.bytes();
        let words = (0..length.div_ceil(8)).flat_map(|at| self.word(at).to_le_bytes());
        // Where flags are all that is sent, those of different senders shall differ.
        let flag = |byte: u8| (byte ^ byte >> 1 ^ byte >> 3 ^ byte >> 5) & 1;
        let mut bytes: Vec<u8> = words.take(length).collect();
        if ty == Ty::Flag {
            for byte in &mut bytes {
                *byte = flag(*byte);
            }
        }
        bytes
    }

    pub(crate) fn values<T: Element>(self, ty: Ty, count: usize) -> Vec<T> {
        elements(&self.bytes(ty, count))
    }
}

/// The elements that these bytes are.
pub(crate) fn elements<T: Element>(bytes: &[u8]) -> Vec<T> {
    let mut all = Vec::with_capacity(bytes.len() / size_of::<T>());
    all.extend(bytes.chunks_exact(size_of::<T>()).map(checked::pod_read_unaligned::<T>));
    all
}

/// The bytes that these elements are.
pub(crate) fn bytes<T: Element>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

/// What the operator makes of contributions, in the order of ranks.
pub(crate) fn fold(ty: Ty, by: By, rows: &[Vec<u8>]) -> Vec<u8> {
    struct Fold<'r, T>(&'r [Vec<u8>], std::marker::PhantomData<T>);

    impl<T: Element> Reducing<T> for Fold<'_, T> {
        type Result = Vec<u8>;

        fn with(self, op: impl ReduceOp<T>) -> Vec<u8> {
            let rows = self.0.iter().map(|row| elements::<T>(row));
            let folded = rows.reduce(|left, right| {
                left.into_iter().zip(right).map(|(left, right)| op.apply(left, right)).collect()
            });
            bytes(&folded.unwrap_or_default())
        }
    }
    with_type!(ty, T => <T as Element>::reduce(by, Fold(rows, std::marker::PhantomData)))
}

/// Whether there is a piece of memory in it that nobody ever wrote, or that belongs to nobody.
pub(crate) fn is_foreign(bytes: &[u8]) -> bool {
    let mut same = 0;
    let mut before = 0;
    bytes.iter().any(|&byte| {
        same = if byte == before { same + 1 } else { 1 };
        before = byte;
        same >= TELLING && (byte == super::UNWRITTEN || byte == super::OUTSIDE)
    })
}
