//! The end of DATA.

/// What becomes of bare CR and LF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BareLineBreaks {
    /// The message is refused.
    #[default]
    Reject,
    /// Each becomes CRLF.
    Normalize,
}
