//! The format of objects: every value says what it is, and structures and enums name their fields
//! and variants.
//!
//! So what serde can say of a type (fields and variants that are skipped, sometimes or always,
//! enums without tags or with the tag inside, flattened structures) arrives as it was sent; formats
//! that count fields and variants take one for another there. A value is a tag and what the tag
//! says comes behind it. Numbers are in groups of 7 bits, the lowest first; those with a sign have
//! it in the lowest bit. A name is written once and then told by its place.

use std::fmt::Display;

macro_rules! tags {
    ($($name:ident)*) => {
        tags!(@ 0; $($name)*);
    };
    (@ $number:expr; $name:ident $($rest:ident)*) => {
        pub(super) const $name: u8 = $number;
        tags!(@ $number + 1; $($rest)*);
    };
    (@ $number:expr;) => {};
}

tags! {
    END NONE SOME UNIT FALSE TRUE
    I8 I16 I32 I64 I128 U8 U16 U32 U64 U128 F32 F64 CHAR STR BYTES
    SEQ OPEN_SEQ MAP OPEN_MAP STRUCT UNIT_VARIANT VARIANT
}

/// Why a value could not be written or read.
#[derive(Debug)]
pub(super) struct Failed(pub(super) String);

impl Failed {
    pub(super) fn of(why: impl Display) -> Self {
        Self(why.to_string())
    }
}

impl Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

impl serde::ser::Error for Failed {
    fn custom<T: Display>(why: T) -> Self {
        Self::of(why)
    }
}

impl serde::de::Error for Failed {
    fn custom<T: Display>(why: T) -> Self {
        Self::of(why)
    }
}
