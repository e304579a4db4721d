//! The images of this host: one is opened for a start, all are listed. It must not change any.

use std::sync::Arc;

use job_images::{Fault, Image, OpenImage, Store};

use crate::jobs::shared::Shared;
use crate::model::identity::Identity;
use crate::sync::Panicked;

/// Opens an image.
///
/// # Errors
/// There is none of this name, or it cannot be read.
pub(crate) async fn open(
    shared: &Arc<Shared>,
    owner: &Identity,
    name: &str,
) -> Result<Result<OpenImage, Fault>, Panicked> {
    let store = Store::new(&shared.config.images_dir());
    let name = name.to_owned();
    let open = move || store.open(&name);
    Ok(shared.threads.lookups.run(owner, &shared.runtime, open).await?)
}

/// All that the operator's list has and that `may_use` says, by name. One that cannot be read is left out.
pub(crate) async fn list(
    shared: &Arc<Shared>,
    caller: &Identity,
    may_use: impl Fn(&str) -> bool,
) -> Vec<Image> {
    let store = Store::new(&shared.config.images_dir());
    let listed = shared.threads.lookups.run(caller, &shared.runtime, move || store.list()).await;
    let mut images = listed.ok().and_then(Result::ok).unwrap_or_default();
    let rules = shared.isolation();
    images.retain(|image| rules.may_use_image(&image.name) && may_use(&image.name));
    images
}
