use std::fmt::Debug;

use murmur_state::monoid::CodecError;

/// A value with a total order and a byte form: the elements of a [`Set`](crate::Set), and the
/// values of [`First`](crate::First) and [`Last`](crate::Last).
///
/// # Contract
///
/// - `from_bytes(to_bytes(v)) == v`.
/// - Equal values have equal bytes.
/// - `TAG` differs between types that are kept in the same table, so that one is never read as
///   another. Tags below 64 are reserved for Murmur.
pub trait Element: Clone + Ord + Debug + Send + Sync + 'static {
    /// Marks the type in stored bytes.
    const TAG: u8;

    /// Encodes the value.
    fn to_bytes(&self) -> Vec<u8>;

    /// Decodes a value.
    ///
    /// # Errors
    ///
    /// [`CodecError`] if the bytes are not of this type.
    fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError>;
}

impl Element for String {
    const TAG: u8 = 1;

    fn to_bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        String::from_utf8(bytes.to_vec()).map_err(|_| CodecError::new("a text is not UTF-8"))
    }
}

impl Element for Vec<u8> {
    const TAG: u8 = 2;

    fn to_bytes(&self) -> Vec<u8> {
        self.clone()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        Ok(bytes.to_vec())
    }
}

impl Element for i64 {
    const TAG: u8 = 3;

    fn to_bytes(&self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        let eight = bytes
            .try_into()
            .map_err(|_| CodecError::new("an integer is not 8 bytes"))?;
        Ok(i64::from_be_bytes(eight))
    }
}

/// The version of these encodings.
const VERSION: u8 = 1;

/// Writes the encoding of [`Set`](crate::Set), [`First`](crate::First) and [`Last`](crate::Last):
/// version, kind, element tag, then fields. A field of variable length is preceded by its length as
/// four bytes; integers are big-endian.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new(kind: u8, tag: u8) -> Self {
        Self(vec![VERSION, kind, tag])
    }

    pub(super) fn integer(&mut self, value: i64) {
        self.0.extend(value.to_be_bytes());
    }

    pub(super) fn field(&mut self, bytes: &[u8]) {
        // A row is at most 400 KB, so no length comes near this bound.
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.0.extend(length.to_be_bytes());
        self.0.extend(bytes);
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads the output of a [`Writer`]; every error says what is wrong.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], kind: u8, tag: u8) -> Result<Self, CodecError> {
        match bytes {
            [VERSION, k, t, rest @ ..] if *k == kind && *t == tag => Ok(Self(rest)),
            [VERSION, k, t, ..] => Err(CodecError::new(format!(
                "the bytes are of kind {k} with elements {t}, expected kind {kind} with elements {tag}"
            ))),
            [version, ..] => Err(CodecError::new(format!(
                "encoding version {version} is not known to this release, which reads {VERSION}"
            ))),
            [] => Err(CodecError::new("there are no bytes")),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn integer(&mut self) -> Result<i64, CodecError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    pub(super) fn field(&mut self) -> Result<&'a [u8], CodecError> {
        let length = u32::from_be_bytes(self.array()?) as usize;
        self.take(length)
    }

    pub(super) fn finish(self) -> Result<(), CodecError> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(CodecError::new("there are too many bytes"))
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        self.take(N)?
            .try_into()
            .map_err(|_| CodecError::new("the bytes are truncated"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(|| CodecError::new("the bytes are truncated"))?;
        self.0 = rest;
        Ok(taken)
    }
}
