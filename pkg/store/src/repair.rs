//! Making a store good again: rows that lead nowhere go, corrupt parts are set aside, and files that no row names are deleted. What is
//! intact stays, and what was lost is pulled again when it is wanted.
//!
//! Killed at any point: each step leaves what a kill in the same step of normal work leaves, and the next repair, or start, goes on.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::check::check_length;
use crate::content::ContentKey;
use crate::durable;
use crate::fsck::{Report, Rows, problem_of};
use crate::quarantine::Quarantined;
use crate::recovery::{files_without_rows, is_in_use, mend};
use crate::store::Store;
use crate::{Corrupt, Result};

// === impl Store ===

impl Store {
    /// Checks everything as [`Store::fsck`] does, and repairs what it can. `taken` is called for what was taken out of use, before the
    /// next is: whoever has staged it unmounts it, and says so ([`Store::unstaged`]).
    ///
    /// A second repair has nothing left to do.
    pub fn repair(&self, taken: &mut dyn FnMut(&Quarantined)) -> Result<Report> {
        let before = self.quick_problems()?;
        self.mend()?;
        let (rows, mut report) = self.check_rows()?;
        self.set_aside_all(rows.wrong_images().collect(), taken)?;
        // They are looked for again below.
        report.problems.clear();
        let corrupt = self.check_bytes(&rows, &mut report)?;
        let set_aside = self.set_aside_all(corrupt, taken)?;
        let deleted = self.delete_strays()?;
        let after = self.quick_problems()?;
        let mended = before.problems.into_iter().filter(|problem| !after.problems.contains(problem));
        report.repaired = mended.map(|problem| format!("{problem}: mended")).collect();
        report.repaired.extend(set_aside.into_iter().chain(deleted));
        report.problems.extend(after.problems);
        report.unfinished = after.unfinished;
        self.list_unfinished(&mut report)?;
        Ok(report)
    }

    /// Everything that is seen without reading content.
    fn quick_problems(&self) -> Result<Report> {
        let (rows, mut report) = self.check_rows()?;
        self.check_lengths(&rows, &mut report)?;
        Ok(report)
    }

    fn check_lengths(&self, rows: &Rows, report: &mut Report) -> Result<()> {
        for (part, path, length) in rows.files(&self.inner.layout) {
            let problem = check_length(&path, length)?;
            // A finding about a row that is gone by now is none.
            if let Some(problem) = problem
                && self.row_of(&part)?.is_some()
            {
                report.problems.push(problem_of(&part, &problem));
            }
        }
        Ok(())
    }

    fn mend(&self) -> Result<()> {
        let write = self.rows().write()?;
        mend(&self.inner, &write)?;
        // Killed before this: nothing has happened.
        write.commit()
    }

    fn set_aside_all(&self, corrupt: Vec<Corrupt>, taken: &mut dyn FnMut(&Quarantined)) -> Result<Vec<String>> {
        let mut done = Vec::new();
        for corrupt in corrupt {
            if let Some(quarantined) = self.quarantine(&corrupt)? {
                taken(&quarantined);
                done.push(quarantined.to_string());
            }
        }
        Ok(done)
    }

    /// A file whose row is about to be written is leased, or still open; so is what a mount uses.
    fn delete_strays(&self) -> Result<Vec<String>> {
        // Held throughout: no lease is taken for a file that is being deleted.
        let held = self.inner.leases.lock();
        let awaited: BTreeSet<PathBuf> = held.keys().flat_map(|key| self.paths_of(key)).collect();
        let stray = self.rows().read(|snapshot| files_without_rows(&self.inner.layout, snapshot))?;
        let mut deleted = Vec::new();
        for path in stray.into_iter().filter(|path| !awaited.contains(path)) {
            let is_file = path.symlink_metadata().is_ok_and(|file| !file.is_dir());
            if is_file && !is_in_use(&path) {
                durable::remove_file(&path)?;
                deleted.push(format!("{}: no row names it: deleted", path.display()));
            }
        }
        Ok(deleted)
    }

    fn paths_of(&self, key: &ContentKey) -> Vec<PathBuf> {
        let mut paths = vec![self.inner.layout.content(key)];
        if let ContentKey::Layer(diff_id) = key {
            paths.push(self.inner.layout.layer_index(diff_id));
        }
        paths
    }
}
