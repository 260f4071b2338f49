//! Bytes as values again; see [`super::tag`].

use serde::{
    Deserialize, Deserializer,
    de::{
        self, DeserializeSeed, IntoDeserializer, Visitor,
        value::{BorrowedStrDeserializer, StrDeserializer},
    },
    forward_to_deserialize_any,
};

use super::tag::{self, Failed};

/// The value whose bytes these are, all of them.
pub(super) fn read<'de, D: Deserialize<'de>>(bytes: &'de [u8]) -> Result<D, Failed> {
    let mut reader = Reader { rest: bytes, names: Vec::new() };
    let value = D::deserialize(&mut reader)?;
    match reader.rest.len() {
        0 => Ok(value),
        left => Err(Failed::of(format!("{left} bytes are left over"))),
    }
}

struct Reader<'de> {
    rest: &'de [u8],
    /// The names that have come.
    names: Vec<&'de str>,
}

impl<'de> Reader<'de> {
    fn peek(&self) -> Result<u8, Failed> {
        self.rest.first().copied().ok_or_else(too_short)
    }

    fn byte(&mut self) -> Result<u8, Failed> {
        let (&byte, rest) = self.rest.split_first().ok_or_else(too_short)?;
        self.rest = rest;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u128, Failed> {
        let (mut number, mut place) = (0, 0);
        loop {
            let byte = self.byte()?;
            let bits = u128::from(byte & 0x7f);
            if place > 126 || (place == 126 && bits > 3) {
                return Err(Failed::of("a number of more than 128 bits"));
            }
            number |= bits << place;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
            place += 7;
        }
    }

    fn narrow<N: TryFrom<u128>>(&mut self) -> Result<N, Failed> {
        N::try_from(self.number()?).map_err(|_| Failed::of("a number that is too large"))
    }

    fn signed<N: TryFrom<i128>>(&mut self) -> Result<N, Failed> {
        let number = self.number()?;
        let number = (number >> 1) as i128 ^ -((number & 1) as i128);
        N::try_from(number).map_err(|_| Failed::of("a number that is too large"))
    }

    fn take(&mut self, count: usize) -> Result<&'de [u8], Failed> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or_else(too_short)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Failed> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or_else(too_short)?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn bytes(&mut self) -> Result<&'de [u8], Failed> {
        let count = self.narrow()?;
        self.take(count)
    }

    fn text(&mut self) -> Result<&'de str, Failed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Failed::of("a text that is no UTF-8"))
    }

    fn name(&mut self) -> Result<&'de str, Failed> {
        match self.narrow::<usize>()? {
            0 => {
                let name = self.text()?;
                self.names.push(name);
                Ok(name)
            }
            place => {
                let name = self.names.get(place - 1).copied();
                name.ok_or_else(|| Failed::of("a name that has not come"))
            }
        }
    }

    fn sequence<V: Visitor<'de>>(
        &mut self,
        visitor: V,
        count: Option<usize>,
    ) -> Result<V::Value, Failed> {
        let mut parts = Parts { reader: self, left: count, named: false };
        let value = visitor.visit_seq(&mut parts)?;
        parts.finish().map(|()| value)
    }

    fn map<V: Visitor<'de>>(
        &mut self,
        visitor: V,
        count: Option<usize>,
        named: bool,
    ) -> Result<V::Value, Failed> {
        let mut parts = Parts { reader: self, left: count, named };
        let value = visitor.visit_map(&mut parts)?;
        parts.finish().map(|()| value)
    }
}

#[cold]
fn too_short() -> Failed {
    Failed::of("the bytes end within the value")
}

/// How a value begins, or all of it if it has no parts.
enum Token<'de> {
    Bool(bool),
    I8(i8),
    I16(i16),
    I32(i32),
    I64(i64),
    I128(i128),
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    U128(u128),
    F32(f32),
    F64(f64),
    Char(char),
    Text(&'de str),
    Bytes(&'de [u8]),
    None,
    Some,
    Unit,
    /// How many, if that was known when they were written.
    Seq(Option<usize>),
    /// How many, and whether their keys are names.
    Map(Option<usize>, bool),
}

impl<'de> Reader<'de> {
    /// Apart from who visits: it is built once, not for every type.
    fn token(&mut self) -> Result<Token<'de>, Failed> {
        Ok(match self.byte()? {
            tag::FALSE => Token::Bool(false),
            tag::TRUE => Token::Bool(true),
            tag::I8 => Token::I8(self.signed()?),
            tag::I16 => Token::I16(self.signed()?),
            tag::I32 => Token::I32(self.signed()?),
            tag::I64 => Token::I64(self.signed()?),
            tag::I128 => Token::I128(self.signed()?),
            tag::U8 => Token::U8(self.byte()?),
            tag::U16 => Token::U16(self.narrow()?),
            tag::U32 => Token::U32(self.narrow()?),
            tag::U64 => Token::U64(self.narrow()?),
            tag::U128 => Token::U128(self.number()?),
            tag::F32 => Token::F32(f32::from_le_bytes(self.array()?)),
            tag::F64 => Token::F64(f64::from_le_bytes(self.array()?)),
            tag::CHAR => {
                let letter = char::from_u32(self.narrow()?);
                Token::Char(letter.ok_or_else(|| Failed::of("a number that is no char"))?)
            }
            tag::STR => Token::Text(self.text()?),
            tag::BYTES => Token::Bytes(self.bytes()?),
            tag::NONE => Token::None,
            tag::SOME => Token::Some,
            tag::UNIT => Token::Unit,
            tag::SEQ => Token::Seq(Some(self.narrow()?)),
            tag::OPEN_SEQ => Token::Seq(None),
            tag::MAP => Token::Map(Some(self.narrow()?), false),
            tag::OPEN_MAP => Token::Map(None, false),
            tag::STRUCT => Token::Map(Some(self.narrow()?), true),
            // Where nobody asks for an enum it is what it is in formats that have none.
            tag::UNIT_VARIANT => Token::Text(self.name()?),
            tag::VARIANT => Token::Map(Some(1), true),
            other => return Err(Failed::of(format!("no value begins with the byte {other}"))),
        })
    }
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = Failed;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        match self.token()? {
            Token::Bool(value) => visitor.visit_bool(value),
            Token::I8(value) => visitor.visit_i8(value),
            Token::I16(value) => visitor.visit_i16(value),
            Token::I32(value) => visitor.visit_i32(value),
            Token::I64(value) => visitor.visit_i64(value),
            Token::I128(value) => visitor.visit_i128(value),
            Token::U8(value) => visitor.visit_u8(value),
            Token::U16(value) => visitor.visit_u16(value),
            Token::U32(value) => visitor.visit_u32(value),
            Token::U64(value) => visitor.visit_u64(value),
            Token::U128(value) => visitor.visit_u128(value),
            Token::F32(value) => visitor.visit_f32(value),
            Token::F64(value) => visitor.visit_f64(value),
            Token::Char(value) => visitor.visit_char(value),
            Token::Text(text) => visitor.visit_borrowed_str(text),
            Token::Bytes(bytes) => visitor.visit_borrowed_bytes(bytes),
            Token::None => visitor.visit_none(),
            Token::Some => visitor.visit_some(self),
            Token::Unit => visitor.visit_unit(),
            Token::Seq(count) => self.sequence(visitor, count),
            Token::Map(count, named) => self.map(visitor, count, named),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        match self.peek()? {
            tag::NONE | tag::SOME | tag::UNIT => self.deserialize_any(visitor),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failed> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        match self.peek()? {
            tag::UNIT_VARIANT | tag::VARIANT => visitor.visit_enum(self),
            tag::STR => {
                self.byte()?;
                let name: StrDeserializer<'_, Failed> = self.text()?.into_deserializer();
                visitor.visit_enum(name)
            }
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq
        tuple tuple_struct map struct identifier ignored_any
    }
}

/// The parts of a sequence, map or structure.
struct Parts<'r, 'de> {
    reader: &'r mut Reader<'de>,
    /// `None` where a sign marks the end.
    left: Option<usize>,
    /// Whether the keys are names.
    named: bool,
}

impl Parts<'_, '_> {
    /// Whether there is another part.
    fn next(&mut self) -> Result<bool, Failed> {
        match &mut self.left {
            Some(0) => Ok(false),
            Some(left) => {
                *left -= 1;
                Ok(true)
            }
            None if self.reader.peek()? == tag::END => {
                self.reader.byte()?;
                self.left = Some(0);
                Ok(false)
            }
            None => Ok(true),
        }
    }

    /// Whoever asked for the parts has taken them all.
    fn finish(mut self) -> Result<(), Failed> {
        if self.next()? { Err(Failed::of("it has more parts than are asked for")) } else { Ok(()) }
    }

    /// Not more than there can be: a part has a byte at least.
    fn hint(&self) -> Option<usize> {
        self.left.map(|left| left.min(self.reader.rest.len()))
    }
}

impl<'de> de::SeqAccess<'de> for Parts<'_, 'de> {
    type Error = Failed;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Failed> {
        if !self.next()? {
            return Ok(None);
        }
        seed.deserialize(&mut *self.reader).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

impl<'de> de::MapAccess<'de> for Parts<'_, 'de> {
    type Error = Failed;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Failed> {
        if !self.next()? {
            return Ok(None);
        }
        if self.named {
            let name = BorrowedStrDeserializer::new(self.reader.name()?);
            return seed.deserialize(name).map(Some);
        }
        seed.deserialize(&mut *self.reader).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Failed> {
        seed.deserialize(&mut *self.reader)
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

impl<'de> de::EnumAccess<'de> for &mut Reader<'de> {
    type Error = Failed;
    type Variant = Variant<'de, Self>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self::Variant), Failed> {
        let is_unit = self.byte()? == tag::UNIT_VARIANT;
        let name: BorrowedStrDeserializer<'de, Failed> = BorrowedStrDeserializer::new(self.name()?);
        let variant = seed.deserialize(name)?;
        Ok((variant, Variant { reader: self, is_unit, bytes: std::marker::PhantomData }))
    }
}

/// What a variant holds.
struct Variant<'de, R> {
    reader: R,
    is_unit: bool,
    bytes: std::marker::PhantomData<&'de [u8]>,
}

impl<'de, 'r> Variant<'de, &'r mut Reader<'de>> {
    fn content(self) -> Result<&'r mut Reader<'de>, Failed> {
        if self.is_unit {
            Err(Failed::of("the variant that came holds nothing"))
        } else {
            Ok(self.reader)
        }
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'de, &mut Reader<'de>> {
    type Error = Failed;

    fn unit_variant(self) -> Result<(), Failed> {
        if self.is_unit { Ok(()) } else { Err(Failed::of("the variant that came holds something")) }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Failed> {
        seed.deserialize(self.content()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Failed> {
        self.content()?.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        self.content()?.deserialize_any(visitor)
    }
}
