//! The MPI library of this process: the file that it is in, and what it has for messages.

use std::{
    collections::BTreeSet,
    env,
    ffi::{CStr, OsStr, c_char, c_int},
    fs,
    mem::MaybeUninit,
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr::null_mut,
};

use mpi::{environment::library_version, ffi};
use nix::libc;

use super::raw::{check, made};
use crate::engine::Installed;

pub(super) fn installed() -> Installed {
    Installed { library: file(), transport: transport() }
}

/// Where the library lies; nothing if it is a part of the program.
fn file() -> Option<String> {
    // Tools that watch calls define MPI's names; behind this one is the library itself.
    let name = c"PMPI_Get_library_version";
    // SAFETY: asks for a symbol among the libraries that are loaded.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if symbol.is_null() {
        return None;
    }
    let mut about = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: room for what the dynamic linker knows of an address.
    let is_known = unsafe { libc::dladdr(symbol, about.as_mut_ptr()) } != 0;
    // SAFETY: a C struct of pointers, all null if nothing was written.
    let file = unsafe { about.assume_init() }.dli_fname;
    if !is_known || file.is_null() {
        return None;
    }
    // SAFETY: a text of the dynamic linker, there as long as the library is loaded: to the end.
    let file = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(file) }.to_bytes()));
    let whole = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    Some(whole.display().to_string())
}

/// What carries messages, if the library is of a kind that tells.
fn transport() -> Option<String> {
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let version = library_version().ok()?;
    if version.starts_with("Open MPI") {
        return open_mpi(&control_variables()?);
    }
    if version.starts_with("Intel") {
        return intel(variable("I_MPI_FABRICS"), variable("I_MPI_OFI_PROVIDER"));
    }
    mpich(&version, variable("MPIR_CVAR_CH4_NETMOD"))
}

/// The names of the library's control variables.
fn control_variables() -> Option<Vec<String>> {
    let mut level = 0;
    // SAFETY: allowed at any time; `level` is an int to write to.
    check(unsafe { ffi::MPI_T_init_thread(ffi::MPI_THREAD_SINGLE as c_int, &raw mut level) })
        .ok()?;
    // SAFETY: the call writes an int.
    let count = unsafe { made(|count| ffi::MPI_T_cvar_get_num(count)) }.unwrap_or(0);
    let names = (0..count).filter_map(control_variable).collect();
    // SAFETY: ends what was begun above.
    check(unsafe { ffi::MPI_T_finalize() }).ok()?;
    Some(names)
}

/// The name of one; nothing if its component is gone.
fn control_variable(index: c_int) -> Option<String> {
    let mut name = [0_u8; 256];
    let (mut room, mut none) = (name.len() as c_int, 0);
    let (mut verbosity, mut bind, mut scope) = (0, 0, 0);
    let mut datatype = MaybeUninit::uninit();
    let mut choices = MaybeUninit::uninit();
    // SAFETY: room for a name of so many bytes, for no description, and for one value of each of
    // the others.
    let code = unsafe {
        ffi::MPI_T_cvar_get_info(
            index,
            name.as_mut_ptr().cast::<c_char>(),
            &raw mut room,
            &raw mut verbosity,
            datatype.as_mut_ptr(),
            choices.as_mut_ptr(),
            null_mut(),
            &raw mut none,
            &raw mut bind,
            &raw mut scope,
        )
    };
    if code != ffi::MPI_SUCCESS as c_int {
        return None;
    }
    let name = CStr::from_bytes_until_nul(&name).ok()?;
    name.to_str().ok().map(str::to_owned)
}

/// Open MPI's ways for messages: it closes the components that it will not use, unless they are
/// built in, and with them go their variables.
fn open_mpi(variables: &[String]) -> Option<String> {
    let of = |framework: &str| components(variables, framework);
    let mut ways = of("btl");
    if ways.contains("sm") {
        ways.remove("vader"); // its former name
    }
    let (on_host, between): (Vec<_>, Vec<_>) =
        ways.into_iter().partition(|way| ["sm", "smcuda", "vader"].contains(way));
    let ob1 = match (&*on_host, &*between) {
        ([], []) => "ob1".to_owned(),
        ([], between) => format!("ob1 ({})", between.join(" or ")),
        (on_host, []) => format!("ob1 ({} on a host)", on_host.join(" or ")),
        (on_host, between) => {
            let (on_host, between) = (on_host.join(" or "), between.join(" or "));
            format!("ob1 ({on_host} on a host, {between} between hosts)")
        }
    };
    let ways = of("pml").into_iter().map(|way| match way {
        "ob1" => ob1.clone(),
        "cm" => {
            let libraries: Vec<_> = of("mtl").into_iter().collect();
            format!("cm ({})", libraries.join(" or "))
        }
        other => other.to_owned(),
    });
    let ways: Vec<_> = ways.collect();
    (!ways.is_empty()).then(|| ways.join(" or "))
}

/// The components of a framework that have variables.
fn components<'a>(variables: &'a [String], framework: &str) -> BTreeSet<&'a str> {
    let component = |name: &'a String| {
        let (component, _) = name.strip_prefix(framework)?.strip_prefix('_')?.split_once('_')?;
        Some(component)
    };
    // These are no components, or carry nothing to another rank.
    let is_way = |name: &&str| !["base", "monitoring", "self", "v"].contains(name);
    variables.iter().filter_map(component).filter(is_way).collect()
}

/// The device of MPICH and its kin; of several network modules the first is used unless another is
/// asked for.
fn mpich(version: &str, asked: Option<String>) -> Option<String> {
    let device = |line: &str| {
        let (_, device) = line.split_once("Device:")?;
        Some(device.trim().to_owned()).filter(|device| device.starts_with("ch"))
    };
    let device = version.lines().find_map(device)?;
    let Some(modules) = device.strip_prefix("ch4:") else { return Some(device) };
    let modules: Vec<&str> = modules.split([' ', ',']).collect();
    let used = asked.as_deref().filter(|asked| modules.contains(asked)).unwrap_or(modules[0]);
    Some(format!("ch4 (network module {used})"))
}

/// What Intel MPI was told; it does not say what it has chosen.
fn intel(fabrics: Option<String>, provider: Option<String>) -> Option<String> {
    match (fabrics, provider) {
        (Some(fabrics), Some(provider)) => Some(format!("{fabrics} (provider {provider})")),
        (fabrics, provider) => fabrics.or(provider.map(|provider| format!("provider {provider}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_open_mpi(variables: &[&str]) -> Option<String> {
        open_mpi(&variables.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn open_mpi_says_what_it_has_open() {
        assert_eq!(of_open_mpi(&["pml", "pml_base_verbose", "pml_wrapper"]), None);
        let four = ["pml_ob1_eager", "btl_self_x", "btl_tcp_x", "btl_vader_x", "mtl_ofi_x"];
        assert_eq!(of_open_mpi(&four).unwrap(), "ob1 (vader on a host, tcp between hosts)");
        let five = ["pml_ob1_x", "pml_ucx_x", "btl_vader_x", "btl_sm_x", "btl_tcp_x", "btl_uct_x"];
        let expected = "ob1 (sm on a host, tcp or uct between hosts) or ucx";
        assert_eq!(of_open_mpi(&five).unwrap(), expected);
        assert_eq!(of_open_mpi(&["pml_ob1_x", "btl_tcp_x"]).unwrap(), "ob1 (tcp)");
        assert_eq!(of_open_mpi(&["pml_ob1_x", "btl_sm_x"]).unwrap(), "ob1 (sm on a host)");
        assert_eq!(of_open_mpi(&["pml_cm_x", "mtl_ofi_x", "btl_tcp_x"]).unwrap(), "cm (ofi)");
    }

    #[test]
    fn mpich_says_its_device_and_the_module_that_it_takes() {
        let said = |device: &str, asked: Option<&str>| {
            let version = format!("MPICH Version:      5.0.2\nMPICH Device:       {device}\n");
            mpich(&version, asked.map(str::to_owned)).unwrap()
        };
        assert_eq!(said("ch4:ucx ofi", None), "ch4 (network module ucx)");
        assert_eq!(said("ch4:ucx ofi", Some("ofi")), "ch4 (network module ofi)");
        assert_eq!(said("ch4:ofi", Some("nowhere")), "ch4 (network module ofi)");
        assert_eq!(said("ch3:nemesis", None), "ch3:nemesis");
        assert_eq!(mpich("MPI VERSION : another", None), None);
    }

    #[test]
    fn intels_are_told_by_its_variables() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(intel(None, None), None);
        assert_eq!(intel(some("shm:ofi"), some("tcp")), some("shm:ofi (provider tcp)"));
        assert_eq!(intel(None, some("tcp")), some("provider tcp"));
    }
}
