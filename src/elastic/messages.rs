//! What coordinator and worker say to each other, and how much of it is believed.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Problem, token::TOKEN_BYTES};

/// Both sides speak the same words.
pub(super) const VERSION: u32 = 1;
/// A message of somebody who has not shown the token is no longer than this.
pub(super) const HELLO_BYTES: usize = 4096;
/// What a message has beside a task or a result, at most.
pub(super) const ROOM: usize = 8192;
/// Names are no longer than this,
const NAME_BYTES: usize = 256;
/// and reasons than this.
pub(super) const WHY_BYTES: usize = 4096;
/// A worker has so many slots at most.
pub(super) const MOST_SLOTS: usize = 4096;
/// Tasks that a worker names in one message, at most.
const MOST_HOLDS: usize = 4 * MOST_SLOTS;

/// A run of a coordinator, and its continuations from the same log.
pub(super) type RunKey = [u8; 16];

/// The first message of a worker.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) version: u32,
    pub(super) token: [u8; TOKEN_BYTES],
    /// What is computed: the same on both sides.
    pub(super) farm: String,
    pub(super) worker: u128,
    /// For people: host and process.
    pub(super) name: String,
    pub(super) slots: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum FromWorker {
    /// The answer to the welcome: what it has from an earlier connection, begun or not.
    Holding(Vec<(u64, bool)>),
    Started(u64),
    Done {
        task: u64,
        result: Vec<u8>,
    },
    Failed {
        task: u64,
        why: String,
    },
    Alive,
    /// It finishes these, and takes no more.
    Leaving(Vec<u64>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ToWorker {
    /// It may not join, for this reason; the connection ends.
    Refused(String),
    Welcome {
        run: RunKey,
        lease_ms: u32,
        most_bytes: u32,
    },
    Task {
        task: u64,
        input: Vec<u8>,
    },
    /// It need not be begun.
    Withdrawn(u64),
    /// What was said of it has been taken note of.
    Taken(u64),
    Alive,
    /// There is no more to do.
    Finished,
}

/// A message that can be refused for what is in it.
pub(super) trait Bounded: DeserializeOwned {
    /// Whether nothing in it is longer than it may be.
    fn is_within_bounds(&self) -> bool;
}

impl Bounded for Hello {
    fn is_within_bounds(&self) -> bool {
        self.farm.len() <= NAME_BYTES
            && self.name.len() <= NAME_BYTES
            && (1..=MOST_SLOTS).contains(&(self.slots as usize))
    }
}

impl Bounded for FromWorker {
    fn is_within_bounds(&self) -> bool {
        match self {
            Self::Holding(tasks) => tasks.len() <= MOST_HOLDS,
            Self::Leaving(tasks) => tasks.len() <= MOST_HOLDS,
            Self::Failed { why, .. } => why.len() <= WHY_BYTES,
            Self::Started(_) | Self::Done { .. } | Self::Alive => true,
        }
    }
}

impl Bounded for ToWorker {
    fn is_within_bounds(&self) -> bool {
        match self {
            Self::Refused(why) => why.len() <= WHY_BYTES,
            _ => true,
        }
    }
}

pub(super) fn encode(message: &impl Serialize) -> Result<Vec<u8>, Problem> {
    postcard::to_stdvec(message).map_err(Problem::Encode)
}

/// A message of somebody else: whole, and within its bounds.
pub(super) fn decode<M: Bounded>(bytes: &[u8]) -> Result<M, Problem> {
    match postcard::take_from_bytes::<M>(bytes) {
        Ok((message, [])) if message.is_within_bounds() => Ok(message),
        _ => Err(Problem::Malformed),
    }
}

/// At most so many bytes of a text, for a message.
pub(super) fn cut(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        let fits = |end: &usize| text.is_char_boundary(*end);
        let end = (0..=bytes - '…'.len_utf8()).rev().find(fits).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// A name as it may be sent.
pub(super) fn name(text: String) -> String {
    cut(text, NAME_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_are_refused_or_are_a_message() {
        arbtest::arbtest(|bytes| {
            let bytes: &[u8] = bytes.arbitrary()?;
            let _ = decode::<Hello>(bytes);
            // A number may be written longer than it need be: then the bytes differ, not the value.
            if let Ok(message) = decode::<FromWorker>(bytes) {
                assert_eq!(decode::<FromWorker>(&encode(&message).unwrap()).unwrap(), message);
            }
            if let Ok(message) = decode::<ToWorker>(bytes) {
                assert_eq!(decode::<ToWorker>(&encode(&message).unwrap()).unwrap(), message);
            }
            Ok(())
        })
        .size_max(1 << 12)
        .budget_ms(1000);
    }

    #[test]
    fn what_is_too_long_or_too_short_is_refused() {
        let hello = |slots, name: usize| {
            let name = "n".repeat(name);
            let farm = "queens".to_owned();
            Hello { version: VERSION, token: [7; TOKEN_BYTES], farm, worker: 1, name, slots }
        };
        let tried = |hello: Hello| decode::<Hello>(&encode(&hello).unwrap()).is_ok();
        assert!(tried(hello(1, 10)) && tried(hello(4096, 256)));
        assert!(!tried(hello(0, 10)) && !tried(hello(4097, 10)) && !tried(hello(1, 257)));
        let why = |bytes| encode(&FromWorker::Failed { task: 0, why: "w".repeat(bytes) }).unwrap();
        assert!(decode::<FromWorker>(&why(WHY_BYTES)).is_ok());
        assert!(decode::<FromWorker>(&why(WHY_BYTES + 1)).is_err());
        let mut bytes = why(3);
        bytes.push(0);
        assert!(decode::<FromWorker>(&bytes).is_err(), "something is left over");
        // A length that the message has not: nothing is allocated for it.
        let long = [encode(&FromWorker::Started(u64::MAX)).unwrap(), vec![0xff; 9]].concat();
        assert!(decode::<FromWorker>(&[&[2, 0][..], &long[1..]].concat()).is_err());
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("abc".to_owned(), 10), "abc");
        let text = cut("ä".repeat(100), 21);
        assert!(text.len() <= 21 && text.ends_with("ä…"), "{text}");
    }
}
