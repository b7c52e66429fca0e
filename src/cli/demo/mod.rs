//! stub
use super::Failure;
pub(super) async fn demo(_: Option<std::path::PathBuf>, _: bool) -> Result<(), Failure> {
    Ok(())
}
