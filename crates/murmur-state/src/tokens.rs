//! Tokens that no two processes share.

use std::sync::Arc;
use std::{fmt, io};

use crate::error::{Cause, OptionError, Place, StoreError};
use crate::time::Random;

/// The source of names that no two processes may share: owners of claims, write tokens, epochs, run
/// ids.
///
/// Each token is 128 bits of the operating system's randomness, read every time. A generator in
/// memory would not do: processes restored from one snapshot (Lambda SnapStart, a copied virtual
/// machine) have the same generator state, and would take each other's writes for their own.
/// Jitter, where equal numbers do no harm, comes from [`Random`].
///
/// Cost: one system call, below a microsecond.
#[derive(Clone)]
pub struct Tokens(Arc<Draw>);

type Draw = dyn Fn() -> Result<u128, NoRandomness> + Send + Sync;

impl Tokens {
    /// Tokens from the operating system.
    pub fn new() -> Self {
        Self::drawn_by(|| {
            let mut bytes = [0; 16];
            getrandom::fill(&mut bytes)
                .map_err(|error| NoRandomness::because(io::Error::other(error.to_string())))?;
            Ok(u128::from_ne_bytes(bytes))
        })
    }

    /// Tokens from `random`: the same tokens for the same seed. Only for tests that must be
    /// repeatable: two processes with one seed take each other's writes for their own.
    pub fn repeatable(random: Random) -> Self {
        Self::drawn_by(move || Ok(random.bits()))
    }

    /// Tokens from your own source. It must never return the same bits twice, in any process.
    pub fn drawn_by(draw: impl Fn() -> Result<u128, NoRandomness> + Send + Sync + 'static) -> Self {
        Self(Arc::new(draw))
    }

    /// 128 unique bits.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`] if the operating system provides none.
    pub fn bits(&self) -> Result<u128, NoRandomness> {
        (self.0)()
    }

    /// A unique text: 32 hexadecimal digits.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`] if the operating system provides none.
    pub fn text(&self) -> Result<String, NoRandomness> {
        Ok(format!("{:032x}", self.bits()?))
    }
}

impl Default for Tokens {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// The operating system provided no random bytes.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the operating system gives no random bytes, which keep apart what two processes write")]
pub struct NoRandomness(#[source] Cause);

impl NoRandomness {
    /// The error of [your own source](Tokens::drawn_by), with its cause.
    pub fn because(cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(cause))
    }

    /// The failure of a write at `place` that was not sent: a setup fault.
    pub fn at(self, place: Place) -> StoreError {
        StoreError::Setup {
            place,
            advice: format!("{self}; nothing was written"),
            source: Some(self.0),
        }
    }
}

impl From<NoRandomness> for OptionError {
    fn from(error: NoRandomness) -> Self {
        Self::new("tokens", format!("{error}: {}", error.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_another_one() {
        let tokens = Tokens::new();
        let clone = tokens.clone();
        let drawn: std::collections::HashSet<u128> = (0..1000)
            .flat_map(|_| [tokens.bits().unwrap(), clone.bits().unwrap()])
            .collect();
        assert_eq!(drawn.len(), 2000);
        assert_eq!(tokens.text().unwrap().len(), 32);
    }
}
