"""What goes into a bundle, what does not, and what cannot: before anything is launched."""

import importlib
import io
import os
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from importlib import metadata

import pytest

from fleetctl import bundle
from fleetctl.bundle import distributions, gathering, uv
from fleetctl.errors import RequestInvalid

SITE = f"lib/python{distributions.HERE}/site-packages"


@pytest.fixture
def made(tmp_path):
    """Builds, with a place of the test's own for what comes of it."""
    return lambda what=None, **more: bundle.build(what, home=tmp_path / "state", **more)


@pytest.fixture
def project(tmp_path):
    """A directory of modules, with what must not leave it."""
    place = tmp_path / "protein"
    for name, text in {"fold.py": "import cloudpickle\nfrom model import core\nANSWER = core.ANSWER\n", "model/__init__.py": "",
                       "model/core.py": "ANSWER = 42\n", "model/table.csv": "a,b\n", ".env": "TOKEN=hush\n", ".git/config": "url = hush\n",
                       "model/server.pem": "hush\n"}.items():  # fmt: skip
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


def unpacked(made, place):
    with tarfile.open(made.path) as opened:
        opened.extractall(place, filter="tar")
    return place


def test_a_project_goes_in_with_gridworker_and_what_that_needs_and_its_secrets_stay_behind(made, project, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    one = made(project)
    contents = one.contents()
    assert set(contents.distributions) == {"cloudpickle", "greenlet", "hiredis"}
    assert {f"{SITE}/{name}" for name in ("fold.py", "model/core.py", "model/table.csv", "gridworker/worker.py")} <= set(contents.files)
    assert contents.left_out == {".env": ".env", ".git": ".git", "model/server.pem": "*.pem"}
    assert "3 left out" in repr(one) and "left out: .env (.env)" in str(contents)
    assert b"hush" not in b"".join(path.read_bytes() for path in unpacked(one, tmp_path / "out").rglob("*") if path.is_file())
    assert contents.modules == ("fold", "model")


def test_the_same_content_has_the_same_name_and_bytes_and_other_content_another(made, project):
    first = made(project)
    before = first.path.read_bytes()
    os.utime(project / "fold.py", (1, 1))
    assert (made(project).name, first.path.read_bytes()) == (first.name, before)
    (project / "model" / "core.py").write_text("ANSWER = 43\n")
    assert made(project).name != first.name


def test_what_is_in_it_is_all_that_its_python_sees(made, project, tmp_path):
    """As a machine makes it: a link to a plain Python, and pyvenv.cfg."""
    place = unpacked(made(project), tmp_path / "out")
    plain = os.path.realpath(sys._base_executable)
    (place / "bin" / "python3").symlink_to(plain)
    (place / "pyvenv.cfg").write_text(f"home = {os.path.dirname(plain)}\ninclude-system-site-packages = false\n")
    text = "import fold, gridworker.worker, sys; print(fold.ANSWER, sys.prefix, fold.__cached__)\nimport boto3"
    done = subprocess.run([place / "bin" / "python", "-c", text], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.split()[:2] == ["42", str(place)]
    assert "No module named 'boto3'" in done.stderr
    assert not [path for path in place.rglob("*.pyc") if path.stat().st_mtime > 1], "byte code was there already, and was taken"


def test_gridworkers_needs_are_what_it_imports():
    text = "import sys; import gridworker.worker, gridworker.supervisor, gridworker.distributor, gridworker.store"
    text += "; print(*{one.partition('.')[0] for one in sys.modules})"
    seen = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout.split()
    owners = metadata.packages_distributions()
    found = {owner for one in seen for owner in owners.get(one, ())} - {"fleetctl", "setuptools"}
    assert found <= set(gathering.GRIDWORKER_NEEDS)


def test_a_missing_module_is_found_before_anything_is_launched(made, project):
    (project / "fold.py").write_text("import no_such_module_here\n")
    with pytest.raises(RequestInvalid, match=r"cannot be imported from its bundle: .*no_such_module_here.*") as error:
        made(project)
    assert "requires=" in str(error.value)
    assert not list((project.parent / "state" / "bundles").iterdir()), "nothing half done stays"


def test_requirements_bring_what_they_need_themselves(made, project):
    (project / "fold.py").write_text("import rich.table\n")
    found = made(project, requires=["rich"]).contents().distributions
    assert {"rich", "markdown-it-py", "mdurl", "Pygments"} <= {*found, *(name.replace("pygments", "Pygments") for name in found)}


@pytest.mark.parametrize("form", ["file", "package", "module", "module by name"])
def test_a_file_a_package_and_a_module_are_projects_too(made, project, monkeypatch, form):
    monkeypatch.syspath_prepend(project)
    importlib.invalidate_caches()
    what = {"file": project / "model" / "core.py", "package": project / "model", "module": None, "module by name": "model"}[form]
    if form == "module":
        monkeypatch.delitem(sys.modules, "model", raising=False)
        what = importlib.import_module("model")
    found = made(what).contents()
    assert found.modules == (("core",) if form == "file" else ("model",))
    assert (f"{SITE}/model/table.csv" in found.files) == (form != "file")


@pytest.mark.parametrize(
    ("what", "words"),
    [("./nowhere", "is not there"), ("no_such_module", "no module 'no_such_module'"), ("sys", "no module 'sys'"), ("./x.whl", "a wheel")],
)
def test_what_is_no_project_is_refused(made, what, words):
    with pytest.raises(RequestInvalid, match=words):
        made(what)


@pytest.mark.parametrize(("more", "words"), [({"python": "2.7"}, "from that one on"), ({"python": 3.11}, "from that one on"),
                                             ({"machine": "sparc"}, "one of x86_64, aarch64"),
                                             ({"requires": ["not a requirement!"]}, "is no requirement")])  # fmt: skip
def test_what_no_machine_can_be_is_refused(made, more, words):
    with pytest.raises(RequestInvalid, match=words):
        made(None, **more)


def test_links_out_of_the_project_stay_behind(made, project, tmp_path):
    (tmp_path / "token").write_text("hush")
    (project / "model" / "token").symlink_to(tmp_path / "token")
    assert made(project).contents().left_out["model/token"] == "a link out of the directory"


# --- the environment itself -------------------------------------------------------------------------------------------------------------


def installation(tmp_path, monkeypatch, *, name="localthing", direct="", tag="py3-none-any", record=True):
    """A distribution that is installed for the length of the test."""
    site = tmp_path / "site"
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    told = {"METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", "WHEEL": f"Wheel-Version: 1.0\nTag: {tag}\n", **(
        {"direct_url.json": direct} if direct else {})}  # fmt: skip
    for part, text in told.items():
        (info / part).write_text(text)
    (site / f"{name}.py").write_text("X = 1\n")
    if record:
        (info / "RECORD").write_text("".join(f"{path.relative_to(site)},,\n" for path in site.rglob("*") if path.is_file()))
    monkeypatch.syspath_prepend(site)
    return name


def test_of_the_environment_some_can_be_taken_with_all_that_they_need(tmp_path):
    one = bundle.from_environment(only=["rich"], home=tmp_path)
    versions = one.contents().distributions
    assert versions["rich"] == metadata.version("rich")
    assert "boto3" not in versions and "fleetctl" not in versions
    assert f"{SITE}/rich/table.py" in one.contents().files


def test_what_the_environment_lacks_is_named(tmp_path):
    with pytest.raises(RequestInvalid, match=r"this environment lacks no-such-thing>=2 \(needed by only; here is none\)"):
        bundle.from_environment(only=["no-such-thing>=2"], home=tmp_path)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"direct": '{"url": "file:///src/localthing", "dir_info": {"editable": true}}'},
         r"no files to take along: localthing \(of /src/localthing\)(.|\n)*from_environment\(also='/src/localthing'\)"),
        ({"tag": "cp311-cp311-linux_x86_64"}, "localthing 1.0 has no wheel that runs on machines: it was compiled on this computer"),
        ({"tag": f"cp311-cp311-manylinux_2_99_{distributions.machine()}"}, "needs glibc 2.99"),
        ({"record": False}, "has no record of its files"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_along_is_named_with_what_to_do(tmp_path, monkeypatch, how, words):
    name = installation(tmp_path, monkeypatch, **how)
    with pytest.raises(RequestInvalid, match=words):
        bundle.from_environment(only=[name], home=tmp_path / "state")


def test_a_local_wheel_goes_along_to_machines_like_this_one_and_to_no_others(tmp_path, monkeypatch):
    name = installation(tmp_path, monkeypatch, direct='{"url": "file:///tmp/localthing-1.0-py3-none-any.whl", "archive_info": {}}')
    assert f"{SITE}/localthing.py" in bundle.from_environment(only=[name], home=tmp_path / "state").contents().files
    other = next(one for one in gathering.MACHINES if one != distributions.machine())
    with pytest.raises(RequestInvalid, match=r"no index has what was installed from elsewhere: localthing 1\.0 \(from file:///tmp/local"):
        bundle.from_environment(only=[name], machine=other, home=tmp_path / "state")


# --- by uv ------------------------------------------------------------------------------------------------------------------------------


def wheel(place, name, tag="py3-none-any", version="1.0", text="X = 1\n"):
    """A wheel as an index would give it."""
    info = f"{name}-{version}.dist-info"
    files = {f"{name}.py": text, f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
             f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n"}  # fmt: skip
    with zipfile.ZipFile(place / f"{name}-{version}-{tag}.whl", "w") as out:
        for part, body in files.items():
            out.writestr(part, body)
        out.writestr(f"{info}/RECORD", "".join(f"{part},,\n" for part in [*files, f"{info}/RECORD"]))


@pytest.fixture
def index(tmp_path, monkeypatch):
    """All that uv can find: a directory of the test's own, with a cache of the test's own."""
    place = tmp_path / "index"
    place.mkdir()
    for name in gathering.GRIDWORKER_NEEDS:
        wheel(place, name, version=metadata.version(name))
    for name in [one for one in os.environ if one.startswith("UV_")]:
        monkeypatch.delenv(name)
    for name, value in {"UV_NO_INDEX": "1", "UV_FIND_LINKS": str(place), "UV_CACHE_DIR": str(tmp_path / "cache"), "UV_NO_CONFIG": "1",
                        "UV_PYTHON_DOWNLOADS": "never"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return place


def test_for_another_python_and_processor_wheels_are_fetched_at_the_versions_that_are_installed_here(made, project, index):
    wheel(index, "cloudpickle", version="99.0", text="X = 'newer'\n")
    one = made(project, python="3.13", machine="aarch64")
    found = one.contents()
    assert (one.python, one.machine) == ("3.13", "aarch64")
    assert found.distributions["cloudpickle"] == metadata.version("cloudpickle")
    assert "lib/python3.13/site-packages/fold.py" in found.files
    assert not [name for name in found.files if name.endswith(".pyc")], "this Python's byte code is of no use there"


def test_a_package_without_a_wheel_is_named(made, project, index):
    with tarfile.open(index / "onlysource-1.0.tar.gz", "w:gz") as out:
        body = b"Metadata-Version: 2.1\nName: onlysource\nVersion: 1.0\n"
        info = tarfile.TarInfo("onlysource-1.0/PKG-INFO")
        info.size = len(body)
        out.addfile(info, io.BytesIO(body))
    with pytest.raises(RequestInvalid, match=r"(?s)as wheels for Python .* on .*uv says:.*onlysource"):
        made(project, requires=["onlysource"])


def test_a_projects_wheel_is_built_by_its_own_back_end(made, index, tmp_path):
    place = tmp_path / "proj"
    (place / "src" / "tiny").mkdir(parents=True)
    (place / "src" / "tiny" / "__init__.py").write_text("X = 7\n")
    (place / "src" / "tiny" / ".env").write_text("hush")
    version = metadata.version("uv")
    (place / "pyproject.toml").write_text(textwrap.dedent(f"""
        [project]
        name = "tiny"
        version = "2.5"
        requires-python = ">=3.11"
        dependencies = ["cloudpickle"]
        [project.scripts]
        tiny = "tiny:X"
        [build-system]
        requires = ["uv_build=={version}"]
        build-backend = "uv_build"
    """))
    found = made(place).contents()
    assert found.distributions == {"tiny": "2.5", **{name: metadata.version(name) for name in gathering.GRIDWORKER_NEEDS}}
    assert f"{SITE}/tiny/__init__.py" in found.files
    assert not [name for name in found.files if name.endswith(".env")]
    (place / "pyproject.toml").write_text("[project]\nname = 5\n")
    with pytest.raises(RequestInvalid, match=r"(?s)proj cannot be built; uv says:"):
        made(place)


def test_a_projects_lock_says_which_versions_it_gets(made, index, tmp_path):
    place = tmp_path / "proj"
    (place / "src" / "tiny").mkdir(parents=True)
    (place / "src" / "tiny" / "__init__.py").write_text("import lockedthing\nX = lockedthing.X\n")
    (place / "pyproject.toml").write_text(textwrap.dedent(f"""
        [project]
        name = "tiny"
        version = "2.5"
        requires-python = ">=3.11"
        dependencies = ["lockedthing"]
        [dependency-groups]
        dev = ["devtool"]
        [build-system]
        requires = ["uv_build=={metadata.version("uv")}"]
        build-backend = "uv_build"
    """))
    wheel(index, "lockedthing", text="X = 'locked'\n")
    wheel(index, "devtool")
    uv._run(["lock", "--quiet", "--project", str(place)], "no lock", "")
    wheel(index, "lockedthing", version="2.0", text="X = 'newer'\n")
    found = made(place)
    needs = {name: metadata.version(name) for name in gathering.GRIDWORKER_NEEDS}
    assert found.contents().distributions == {"tiny": "2.5", "lockedthing": "1.0", **needs}, "as locked, and nothing for development"
    with tarfile.open(found.path) as archive:
        assert archive.extractfile(f"{SITE}/lockedthing.py").read() == b"X = 'locked'\n"
    (place / "uv.lock").rename(place / "away")
    assert made(place).contents().distributions["lockedthing"] == "2.0", "without the lock it is the newest"
    (place / "away").rename(place / "uv.lock")
    (place / "uv.lock").write_text("this is no lock")
    with pytest.raises(RequestInvalid, match=r"(?s)uv\.lock cannot be read; uv says:"):
        made(place)


def test_without_uv_what_needs_it_says_how_to_have_it(made, project, monkeypatch):
    monkeypatch.setitem(sys.modules, "uv", None)
    monkeypatch.setenv("PATH", str(project))
    with pytest.raises(RequestInvalid, match=r"uv is needed.*\n.*pip install 'fleetctl\[bundle\]'"):
        made(project, python="3.13")


def test_a_built_file_that_has_gone_is_said_by_its_name(made, project):
    one = made(project)
    one.path.unlink()
    with pytest.raises(RequestInvalid, match=r"cannot be read any more(.|\n)*build it again"):
        one.read(0, 1)
