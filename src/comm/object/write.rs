//! Values as bytes; see [`super::tag`].

use serde::{Serialize, Serializer, ser};

use super::tag::{self, Failed};

/// Appends a value.
pub(super) fn write<S: Serialize + ?Sized>(value: &S, onto: &mut Vec<u8>) -> Result<(), Failed> {
    value.serialize(&mut Writer { onto, names: Vec::new(), last: 0 })
}

struct Writer<'b> {
    onto: &'b mut Vec<u8>,
    /// The names that have been written, by their places.
    names: Vec<&'static str>,
    /// Where the last name stands: the next one of a structure that was there before is behind it.
    last: usize,
}

impl Writer<'_> {
    fn tag(&mut self, tag: u8) {
        self.onto.push(tag);
    }

    fn number(&mut self, mut number: u128) {
        while number >= 0x80 {
            self.onto.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.onto.push(number as u8);
    }

    fn unsigned(&mut self, tag: u8, number: impl Into<u128>) {
        self.tag(tag);
        self.number(number.into());
    }

    /// Small numbers of either sign in few bytes.
    fn signed(&mut self, tag: u8, number: impl Into<i128>) {
        let number = number.into();
        self.unsigned(tag, ((number << 1) ^ (number >> 127)) as u128);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u128);
        self.onto.extend_from_slice(bytes);
    }

    /// A name in full where it comes first, then its place among the names plus 1.
    fn name(&mut self, name: &'static str) {
        let next = Some(self.last + 1).filter(|&next| self.names.get(next) == Some(&name));
        let known = next.or_else(|| self.names.iter().position(|known| *known == name));
        self.last = known.unwrap_or(self.names.len());
        if known.is_some() {
            return self.number(self.last as u128 + 1);
        }
        self.names.push(name);
        self.number(0);
        self.bytes(name.as_bytes());
    }

    /// The beginning of what has parts: so many, or as many as come.
    fn begin(&mut self, tag: u8, open: u8, count: Option<usize>) -> Parts<'_, Self> {
        match count {
            Some(count) => {
                self.tag(tag);
                self.number(count as u128);
            }
            None => self.tag(open),
        }
        Parts { writer: self, left: count }
    }
}

/// The parts of a sequence, map or structure, which are as many as was said.
struct Parts<'w, W> {
    writer: &'w mut W,
    left: Option<usize>,
}

impl Parts<'_, Writer<'_>> {
    fn take(&mut self) -> Result<(), Failed> {
        if let Some(left) = &mut self.left {
            *left =
                left.checked_sub(1).ok_or_else(|| Failed::of("it has more parts than it says"))?;
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Failed> {
        match self.left {
            None => self.writer.tag(tag::END),
            Some(0) => {}
            Some(left) => {
                return Err(Failed::of(format!("it has {left} parts fewer than it says")));
            }
        }
        Ok(())
    }
}

impl<'w, 'b> Serializer for &'w mut Writer<'b> {
    type Ok = ();
    type Error = Failed;
    type SerializeSeq = Parts<'w, Writer<'b>>;
    type SerializeTuple = Parts<'w, Writer<'b>>;
    type SerializeTupleStruct = Parts<'w, Writer<'b>>;
    type SerializeTupleVariant = Parts<'w, Writer<'b>>;
    type SerializeMap = Parts<'w, Writer<'b>>;
    type SerializeStruct = Parts<'w, Writer<'b>>;
    type SerializeStructVariant = Parts<'w, Writer<'b>>;

    fn serialize_bool(self, value: bool) -> Result<(), Failed> {
        self.tag(if value { tag::TRUE } else { tag::FALSE });
        Ok(())
    }

    fn serialize_i8(self, value: i8) -> Result<(), Failed> {
        self.signed(tag::I8, value);
        Ok(())
    }

    fn serialize_i16(self, value: i16) -> Result<(), Failed> {
        self.signed(tag::I16, value);
        Ok(())
    }

    fn serialize_i32(self, value: i32) -> Result<(), Failed> {
        self.signed(tag::I32, value);
        Ok(())
    }

    fn serialize_i64(self, value: i64) -> Result<(), Failed> {
        self.signed(tag::I64, value);
        Ok(())
    }

    fn serialize_i128(self, value: i128) -> Result<(), Failed> {
        self.signed(tag::I128, value);
        Ok(())
    }

    fn serialize_u8(self, value: u8) -> Result<(), Failed> {
        self.onto.extend_from_slice(&[tag::U8, value]);
        Ok(())
    }

    fn serialize_u16(self, value: u16) -> Result<(), Failed> {
        self.unsigned(tag::U16, value);
        Ok(())
    }

    fn serialize_u32(self, value: u32) -> Result<(), Failed> {
        self.unsigned(tag::U32, value);
        Ok(())
    }

    fn serialize_u64(self, value: u64) -> Result<(), Failed> {
        self.unsigned(tag::U64, value);
        Ok(())
    }

    fn serialize_u128(self, value: u128) -> Result<(), Failed> {
        self.unsigned(tag::U128, value);
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Result<(), Failed> {
        self.tag(tag::F32);
        self.onto.extend_from_slice(&value.to_le_bytes());
        Ok(())
    }

    fn serialize_f64(self, value: f64) -> Result<(), Failed> {
        self.tag(tag::F64);
        self.onto.extend_from_slice(&value.to_le_bytes());
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), Failed> {
        self.unsigned(tag::CHAR, value);
        Ok(())
    }

    fn serialize_str(self, value: &str) -> Result<(), Failed> {
        self.tag(tag::STR);
        self.bytes(value.as_bytes());
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Failed> {
        self.tag(tag::BYTES);
        self.bytes(value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Failed> {
        self.tag(tag::NONE);
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Failed> {
        self.tag(tag::SOME);
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Failed> {
        self.tag(tag::UNIT);
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Failed> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), Failed> {
        self.tag(tag::UNIT_VARIANT);
        self.name(variant);
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Failed> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Failed> {
        self.tag(tag::VARIANT);
        self.name(variant);
        value.serialize(self)
    }

    fn serialize_seq(self, count: Option<usize>) -> Result<Self::SerializeSeq, Failed> {
        Ok(self.begin(tag::SEQ, tag::OPEN_SEQ, count))
    }

    fn serialize_tuple(self, count: usize) -> Result<Self::SerializeTuple, Failed> {
        self.serialize_seq(Some(count))
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        count: usize,
    ) -> Result<Self::SerializeTupleStruct, Failed> {
        self.serialize_seq(Some(count))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        count: usize,
    ) -> Result<Self::SerializeTupleVariant, Failed> {
        self.tag(tag::VARIANT);
        self.name(variant);
        self.serialize_seq(Some(count))
    }

    fn serialize_map(self, count: Option<usize>) -> Result<Self::SerializeMap, Failed> {
        Ok(self.begin(tag::MAP, tag::OPEN_MAP, count))
    }

    fn serialize_struct(
        self,
        _: &'static str,
        count: usize,
    ) -> Result<Self::SerializeStruct, Failed> {
        Ok(self.begin(tag::STRUCT, tag::STRUCT, Some(count)))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        count: usize,
    ) -> Result<Self::SerializeStructVariant, Failed> {
        self.tag(tag::VARIANT);
        self.name(variant);
        self.serialize_struct(name, count)
    }
}

macro_rules! parts {
    ($($form:ident: $verb:ident;)*) => {$(
        impl ser::$form for Parts<'_, Writer<'_>> {
            type Ok = ();
            type Error = Failed;

            fn $verb<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
                self.take()?;
                value.serialize(&mut *self.writer)
            }

            fn end(self) -> Result<(), Failed> {
                self.finish()
            }
        }
    )*};
}

parts! {
    SerializeSeq: serialize_element;
    SerializeTuple: serialize_element;
    SerializeTupleStruct: serialize_field;
    SerializeTupleVariant: serialize_field;
}

macro_rules! named_parts {
    ($($form:ident),*) => {$(
        impl ser::$form for Parts<'_, Writer<'_>> {
            type Ok = ();
            type Error = Failed;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), Failed> {
                self.take()?;
                self.writer.name(name);
                value.serialize(&mut *self.writer)
            }

            fn end(self) -> Result<(), Failed> {
                self.finish()
            }
        }
    )*};
}

named_parts!(SerializeStruct, SerializeStructVariant);

impl ser::SerializeMap for Parts<'_, Writer<'_>> {
    type Ok = ();
    type Error = Failed;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Failed> {
        self.take()?;
        key.serialize(&mut *self.writer)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        value.serialize(&mut *self.writer)
    }

    fn end(self) -> Result<(), Failed> {
        self.finish()
    }
}
