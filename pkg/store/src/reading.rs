//! Content as it was before it was stored, for whoever hands it on.

use std::fs::File;
use std::io::{Read as _, Take};

use crate::content::{Content, ContentKey};
use crate::rows::CONTENT;
use crate::store::Store;
use crate::{Result, StoreError};

// === impl Store ===

impl Store {
    /// The bytes of a piece of content, without the padding, to be read once. They are not held against their digest: the reader
    /// does that. It stays readable while open, even if it is deleted.
    pub fn open_content(&self, key: &ContentKey) -> Result<Take<File>> {
        let content: Option<Content> = self.rows().get(CONTENT, &key.to_string())?;
        let content = content.ok_or_else(|| StoreError::MissingContent(key.to_string()))?;
        let path = self.inner.layout.content(key);
        let file = File::open(&path).map_err(StoreError::io("open", &path))?;
        Ok(file.take(content.size))
    }
}
