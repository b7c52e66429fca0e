//! RTF (being written).
/// Error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RtfError {
    /// Nothing.
    #[error("no")]
    No,
}
pub(super) struct Rtf {
    pub(super) plain: String,
    pub(super) html: String,
}
pub(super) fn read(_rtf: &[u8]) -> Result<Rtf, RtfError> {
    Err(RtfError::No)
}
