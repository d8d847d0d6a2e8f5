//! Who may open what: directories that only this process's user, the system and administrators may open.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::windows::io::FromRawHandle as _;
use std::path::Path;
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::{
    CloseHandle, ERROR_SUCCESS, GENERIC_READ, GENERIC_WRITE, HANDLE, INVALID_HANDLE_VALUE, LocalFree,
};
use windows_sys::Win32::Security::Authorization::{
    ConvertSidToStringSidW, ConvertStringSecurityDescriptorToSecurityDescriptorW, ConvertStringSidToSidW,
    GetNamedSecurityInfoW, SDDL_REVISION_1, SE_FILE_OBJECT,
};
use windows_sys::Win32::Security::{
    ACCESS_ALLOWED_ACE, ACE_HEADER, ACL, CheckTokenMembership, DACL_SECURITY_INFORMATION, GetAce,
    GetTokenInformation, INHERIT_ONLY_ACE, OWNER_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR, PSID,
    SECURITY_ATTRIBUTES, TOKEN_QUERY, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::Storage::FileSystem::{
    CREATE_NEW, CreateDirectoryW, CreateFileW, FILE_ATTRIBUTE_NORMAL, FILE_SHARE_DELETE, FILE_SHARE_READ,
    FILE_SHARE_WRITE,
};
use windows_sys::Win32::System::SystemServices::{ACCESS_ALLOWED_ACE_TYPE, ACCESS_DENIED_ACE_TYPE};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

use crate::text::{narrow, wide};

/// LocalSystem, as which services run.
pub const SYSTEM: &str = "S-1-5-18";

/// The group of administrators.
pub const ADMINISTRATORS: &str = "S-1-5-32-544";

/// Everybody, also where a list of access rights is missing.
pub const EVERYONE: &str = "S-1-1-0";

/// Rights to change something: write or append, write attributes, delete what is in it, delete it, its rights, its owner;
/// everything.
const CHANGE: u32 =
    0x2 | 0x4 | 0x10 | 0x40 | 0x0001_0000 | 0x0004_0000 | 0x0008_0000 | 0x4000_0000 | 0x1000_0000;

/// Who owns a file or directory and who may do anything with it; identifiers as `S-1-5-18`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// May change who may do what.
    pub owner: String,
    /// To whom anything at all is allowed, or will be with what comes to be in it.
    pub allowed: Vec<String>,
    /// To whom it is allowed to change it: what is in it, its name, or who may do what.
    pub writers: Vec<String>,
}

/// Creates a directory that the system and administrators may open, and whoever runs this unless an administrator does; what
/// will be in it inherits that. From the first moment on: it is never open to anybody else.
///
/// # Errors
/// As [`std::fs::create_dir`].
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    let (path, descriptor) = (wide(path)?, private("OICI")?);
    let attributes = attributes(&descriptor);
    // SAFETY: the path ends in a zero; the attributes and what they point to live until the call is over.
    done(unsafe { CreateDirectoryW(path.as_ptr(), &attributes) })
}

/// Creates a file for reading and writing that the same may open, whatever holds for its directory.
///
/// # Errors
/// As [`File::create_new`].
pub fn create_private_file(path: &Path) -> io::Result<File> {
    let (path, descriptor) = (wide(path)?, private("")?);
    let attributes = attributes(&descriptor);
    // SAFETY: the path ends in a zero; the attributes and what they point to live until the call is over.
    let handle = unsafe {
        CreateFileW(
            path.as_ptr(),
            GENERIC_READ | GENERIC_WRITE,
            FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
            &attributes,
            CREATE_NEW,
            FILE_ATTRIBUTE_NORMAL,
            null_mut(),
        )
    };
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a handle of a file that nobody else has.
    Ok(unsafe { File::from_raw_handle(handle) })
}

/// What says that only the system and administrators may do anything, and whoever runs this unless an administrator does.
fn private(inherited: &str) -> io::Result<Local> {
    let me = if acts_as(ADMINISTRATORS)? { ADMINISTRATORS.to_owned() } else { me()? };
    let may = |who: &str| format!("(A;{inherited};FA;;;{who})");
    let mut description = format!("O:{me}D:P{}{}", may(SYSTEM), may(ADMINISTRATORS));
    if ![SYSTEM, ADMINISTRATORS].contains(&&*me) {
        description.push_str(&may(&me));
    }
    let description = wide(description)?;
    let mut descriptor = Local(null_mut());
    // SAFETY: the text ends in a zero, and the descriptor is freed by `Local`.
    let made = unsafe {
        ConvertStringSecurityDescriptorToSecurityDescriptorW(
            description.as_ptr(),
            SDDL_REVISION_1,
            &mut descriptor.0,
            null_mut(),
        )
    };
    done(made).map(|()| descriptor)
}

fn attributes(descriptor: &Local) -> SECURITY_ATTRIBUTES {
    SECURITY_ATTRIBUTES {
        nLength: u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).unwrap_or_default(),
        lpSecurityDescriptor: descriptor.0,
        bInheritHandle: 0,
    }
}

/// Who may open a file or directory; a link is not followed by this.
///
/// # Errors
/// If it is not there, or may not be looked at.
pub fn access(path: &Path) -> io::Result<Access> {
    let path = wide(path)?;
    let mut owner: PSID = null_mut();
    let mut list: *mut ACL = null_mut();
    let mut descriptor = Local(null_mut());
    // SAFETY: the path ends in a zero; owner and list point into the descriptor, which is freed by `Local`.
    let failed = unsafe {
        GetNamedSecurityInfoW(
            path.as_ptr(),
            SE_FILE_OBJECT,
            OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION,
            &mut owner,
            null_mut(),
            &mut list,
            null_mut(),
            &mut descriptor.0,
        )
    };
    if failed != ERROR_SUCCESS {
        return Err(io::Error::from_raw_os_error(i32::try_from(failed).unwrap_or_default()));
    }
    // SAFETY: an identifier in the descriptor.
    let owner = unsafe { name(owner) }?;
    // SAFETY: the list in the descriptor, or null.
    let entries = unsafe { entries(list) }?;
    let may_change = |entry: &&Entry| !entry.only_inherited && entry.rights & CHANGE != 0;
    let writers = entries.iter().filter(may_change).map(|entry| entry.who.clone()).collect();
    let allowed = entries.into_iter().map(|entry| entry.who).collect();
    Ok(Access { owner, allowed, writers })
}

/// Whoever runs this process.
///
/// # Errors
/// If the system does not tell.
pub fn me() -> io::Result<String> {
    let mut token = Handle(null_mut());
    // SAFETY: a handle that needs no closing.
    let process = unsafe { GetCurrentProcess() };
    // SAFETY: the token is closed by `Handle`.
    done(unsafe { OpenProcessToken(process, TOKEN_QUERY, &mut token.0) })?;
    // As long as the longest identifier, and aligned as what is put there.
    let mut room = [0_u64; 32];
    let bytes = u32::try_from(size_of_val(&room)).unwrap_or_default();
    let mut used = 0;
    // SAFETY: the room is as large as said.
    let got = unsafe { GetTokenInformation(token.0, TokenUser, room.as_mut_ptr().cast(), bytes, &mut used) };
    done(got)?;
    // SAFETY: the call has put one there.
    let user = unsafe { &*room.as_ptr().cast::<TOKEN_USER>() };
    // SAFETY: it points into the room.
    unsafe { name(user.User.Sid) }
}

/// Whether this process acts as this user or group: an administrator's does so only when started "as administrator".
///
/// # Errors
/// If the system does not tell.
pub fn acts_as(who: &str) -> io::Result<bool> {
    let who = wide(who)?;
    let mut id = Local(null_mut());
    // SAFETY: the text ends in a zero, and the identifier is freed by `Local`.
    done(unsafe { ConvertStringSidToSidW(who.as_ptr(), &mut id.0) })?;
    let mut is_member = 0;
    // SAFETY: without a token it is about this thread; the identifier is one.
    done(unsafe { CheckTokenMembership(null_mut(), id.0, &mut is_member) })?;
    Ok(is_member != 0)
}

/// Something that is allowed.
struct Entry {
    who: String,
    rights: u32,
    /// Not of the directory itself, but of what will be in it.
    only_inherited: bool,
}

/// To whom what is allowed.
///
/// # Safety
/// Null, or a valid list.
unsafe fn entries(list: *const ACL) -> io::Result<Vec<Entry>> {
    if list.is_null() {
        return Ok(vec![Entry { who: EVERYONE.to_owned(), rights: u32::MAX, only_inherited: false }]);
    }
    let mut found = Vec::new();
    // SAFETY: a valid list.
    for index in 0..u32::from(unsafe { (*list).AceCount }) {
        let mut entry: *mut c_void = null_mut();
        // SAFETY: the index is one of its entries.
        done(unsafe { GetAce(list, index, &mut entry) })?;
        // SAFETY: every entry begins with this.
        let header = unsafe { *entry.cast::<ACE_HEADER>() };
        let only_inherited = u32::from(header.AceFlags) & INHERIT_ONLY_ACE != 0;
        match u32::from(header.AceType) {
            ACCESS_ALLOWED_ACE_TYPE => {
                let entry = entry.cast::<ACCESS_ALLOWED_ACE>();
                // SAFETY: so says its type; in place of its last field there is an identifier.
                let id = unsafe { &raw mut (*entry).SidStart };
                // SAFETY: as above.
                let who = unsafe { name(id.cast()) }?;
                // SAFETY: as above.
                found.push(Entry { who, rights: unsafe { (*entry).Mask }, only_inherited });
            }
            ACCESS_DENIED_ACE_TYPE => {}
            // Allows something to somebody, under conditions which we do not understand.
            kind => {
                let who = format!("an entry of the type {kind}");
                found.push(Entry { who, rights: u32::MAX, only_inherited });
            }
        }
    }
    Ok(found)
}

/// # Safety
/// A valid identifier.
unsafe fn name(id: PSID) -> io::Result<String> {
    let mut text = Local(null_mut());
    // SAFETY: a valid identifier, and the text is freed by `Local`.
    done(unsafe { ConvertSidToStringSidW(id, (&raw mut text.0).cast()) })?;
    // SAFETY: the call has put a text there.
    Ok(unsafe { narrow(text.0.cast()) })
}

fn done(answer: i32) -> io::Result<()> {
    if answer == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Memory a call gave, to be freed.
struct Local(PSECURITY_DESCRIPTOR);

impl Drop for Local {
    fn drop(&mut self) {
        // SAFETY: null, or what a call has given that wants it back in this way.
        unsafe { LocalFree(self.0) };
    }
}

struct Handle(HANDLE);

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: a handle of ours that is used no more.
            unsafe { CloseHandle(self.0) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_private_directory_is_open_to_nobody_else() {
        let dir = std::env::temp_dir().join(format!("umsid-windows-{}", std::process::id()));
        let file = dir.join("file");
        create_private_dir(&dir).unwrap();
        create_private_file(&file).unwrap().write_all(b"x").unwrap();
        let again = [create_private_dir(&dir).unwrap_err(), create_private_file(&file).unwrap_err()];
        let found = [access(&dir).unwrap(), access(&file).unwrap()];
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(again.iter().all(|error| error.kind() == io::ErrorKind::AlreadyExists), "{again:?}");
        let expected = [SYSTEM, ADMINISTRATORS, &me().unwrap()];
        for found in found {
            assert!(expected.contains(&&*found.owner), "{found:?}");
            for who in found.allowed.iter().chain(&found.writers) {
                assert!(expected.contains(&&**who), "{found:?}");
            }
            assert!(!found.writers.is_empty(), "{found:?}");
        }
    }

    #[test]
    fn who_may_open_what_is_there_is_seen() {
        let open = access(Path::new(r"C:\windows\system32\kernel32.dll")).unwrap();
        assert!(!open.allowed.is_empty(), "{open:?}");
        let missing = access(Path::new(r"C:\windows\there is no such file")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn everybody_acts_as_himself() {
        assert!(me().unwrap().starts_with("S-1-"));
        assert!(acts_as(EVERYONE).unwrap());
        assert!(!acts_as("S-1-5-21-1-2-3-4").unwrap());
        assert!(acts_as("nobody").is_err());
    }
}
