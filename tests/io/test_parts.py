import gzip
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from attnviz.errors import AttnvizError, ImageError, UsageError
from attnviz.io import tiff_regions
from attnviz.io.parts import parse_part, split_path
from attnviz.io.picture import decode, load_image

RNG = np.random.default_rng(0)


def bytes_of(*shape: int) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def refused(path: Path | str, **options: Any) -> str:
    with pytest.raises(AttnvizError) as caught:
        load_image(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
def test_bands_of_an_array_are_found_by_their_number(tmp_path: Path, layout: str) -> None:
    bands = bytes_of(40, 50, 6)
    np.save(tmp_path / "a.npy", bands if layout == "HWC" else bands.transpose(2, 0, 1))
    picture = load_image(tmp_path / "a.npy")
    assert (picture.pixels == bands[..., :3]).all()
    assert picture.bands is not None
    assert (picture.bands == bands).all()
    assert [note.text for note in picture.notes] == ["6 bands: the first three are drawn"]
    chosen = load_image(tmp_path / "a.npy", channels="5,3,1", region="7,3,20,10")
    assert (chosen.pixels == bands[3:13, 7:27][..., [5, 3, 1]]).all()
    assert chosen.bands is not None
    assert (chosen.bands == bands[3:13, 7:27]).all()
    assert chosen.notes == ()


def test_grey_arrays_and_arrays_by_columns(tmp_path: Path) -> None:
    grey = bytes_of(20, 30)
    np.save(tmp_path / "a.npy", np.asfortranarray(grey))
    picture = load_image(tmp_path / "a.npy")
    assert (picture.pixels == grey[..., None]).all()
    assert picture.bands is None
    np.save(tmp_path / "big.npy", (grey.astype(">u2") * 257))
    assert (load_image(tmp_path / "big.npy").pixels == grey[..., None]).all()
    np.save(tmp_path / "yes.npy", grey > 100)
    assert (load_image(tmp_path / "yes.npy").pixels == (grey > 100)[..., None] * 255).all()


def test_ambiguous_shapes_say_what_to_type(tmp_path: Path) -> None:
    cube = bytes_of(20, 20, 20)
    path = tmp_path / "a.npy"
    np.save(path, cube)
    text = refused(path)
    assert f"type {path}:CHW, {path}:HWC, or add --slice N" in text
    assert (load_image(f"{path}:CHW").pixels == cube[:3].transpose(1, 2, 0)).all()
    assert (load_image(f"{path}:HWC").pixels == cube[..., :3]).all()
    assert (load_image(path, slice=4).pixels == cube[4][..., None]).all()
    assert (load_image(f"{path}:HWD", slice=4).pixels == cube[..., 4][..., None]).all()
    assert "type --slice 19" in refused(path, slice=20)
    assert "4 axes" not in refused(f"{path}:DHWC")
    assert "3 axes, DHWC names 4" in refused(f"{path}:DHWC")
    np.save(path, bytes_of(4, 8, 9, 3))
    assert f"{path}:DHWC with --slice N" in refused(path)
    assert load_image(f"{path}:DHWC", slice=1).pixels.shape == (8, 9, 3)


def test_a_volume_without_a_slice_shows_the_middle_one(tmp_path: Path) -> None:
    cube = bytes_of(9, 20, 20)
    np.save(tmp_path / "a.npy", cube)
    picture = load_image(f"{tmp_path}/a.npy:DHW")
    assert (picture.pixels == cube[4][..., None]).all()
    assert picture.notes[0].text == "9 slices: slice 4 is drawn; add --slice N for another"


def test_arrays_of_an_npz_are_named(tmp_path: Path) -> None:
    path, one, two = tmp_path / "a.npz", bytes_of(20, 30, 3), bytes_of(3, 20, 20)
    np.savez_compressed(path, one=one, two=two)
    assert f"several arrays (one, two); name one: {path}:one" in refused(path)
    assert (load_image(f"{path}:one").pixels == one).all()
    assert (load_image(f"{path}:two:CHW").pixels == two.transpose(1, 2, 0)).all()
    assert "no such array; it has one, two" in refused(f"{path}:three")
    np.savez(path, one)
    assert (load_image(path).pixels == one).all()


def test_a_file_with_a_colon_in_its_name_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npy:CHW"
    path.write_bytes(b"x")
    assert split_path(str(path)).axes is None


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("trapped"),)


def test_hostile_arrays_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.npy"
    np.save(path, np.array([[Trap()]], dtype=object), allow_pickle=True)
    assert "pickled objects, which are not loaded" in refused(path)
    assert not Path("trapped").exists()
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6)}
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    path.write_bytes(file.getvalue() + b"12")
    assert "its header says 1000000000000 bytes, there are 2" in refused(path)
    path.write_bytes(b"\x93NUMPY\x01\0")
    assert "truncated or damaged" in refused(path)
    np.save(path, np.zeros((0, 4)))
    assert "empty array" in refused(path)
    np.save(path, np.zeros(9))
    assert "no picture" in refused(path)
    np.save(path, np.zeros((4, 4), complex))
    assert "complex128" in refused(path)
    np.save(path, np.array([["a"]]))
    assert "save numbers" in refused(path)
    packed = tmp_path / "a.npz"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("x.npy", file.getvalue())
    assert "1000000000000 bytes" in refused(packed)
    packed.write_bytes(packed.read_bytes()[:60])
    assert "truncated or damaged" in refused(packed)
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("x.txt", "text")
    assert "no array in it" in refused(packed)


def test_missing_values_of_an_array_are_black(tmp_path: Path) -> None:
    values = np.array([[0, 1.0], [np.nan, np.inf]], np.float32)
    np.save(tmp_path / "a.npy", values)
    picture = load_image(tmp_path / "a.npy")
    assert picture.pixels[..., 0].tolist() == [[0, 255], [0, 255]]
    assert "no numbers" in picture.notes[0].text
    np.save(tmp_path / "a.npy", np.full((4, 4), np.nan))
    assert not load_image(tmp_path / "a.npy").pixels.any()


def test_channels_of_a_tiff_of_six_bands(tmp_path: Path) -> None:
    path = tmp_path / "six.tif"
    bands = RNG.integers(0, 65536, (40, 50, 6), dtype=np.uint16)
    tifffile.imwrite(path, bands, photometric="minisblack", planarconfig="contig")
    picture = load_image(path, channels="3,2,1")
    expected = np.rint(bands / 65535 * 255).astype(np.uint8)
    assert (picture.pixels == expected[..., [3, 2, 1]]).all()
    assert picture.bands is not None
    assert (picture.bands == expected).all()
    assert (load_image(path, channels="5").pixels == expected[..., [5]]).all()
    assert "its 6 bands are 0 to 5; type --channels 5,2,1" in refused(path, channels="6,2,1")
    header = picture.header()
    assert header.part.channels == (3, 2, 1)


@pytest.mark.parametrize("count", [4, 6])
def test_all_bands_of_an_rgb_tiff_with_further_bands_are_kept(tmp_path: Path, count: int) -> None:
    path, bands = tmp_path / "rgb.tif", bytes_of(20, 30, count)
    tifffile.imwrite(path, bands, photometric="rgb", extrasamples=[0] * (count - 3))
    picture = load_image(path)
    assert (picture.pixels == bands[..., :3]).all()
    assert picture.bands is not None
    assert (picture.bands == bands).all()


def test_channels_of_ordinary_pictures(tmp_path: Path) -> None:
    from PIL import Image  # noqa: PLC0415

    colours = bytes_of(10, 12, 3)
    Image.fromarray(colours).save(tmp_path / "a.png")
    assert (load_image(tmp_path / "a.png", channels="2,1,0").pixels == colours[..., ::-1]).all()
    assert (load_image(tmp_path / "a.png", channels="1").pixels == colours[..., [1]]).all()
    assert (load_image(tmp_path / "a.png", region="2,1,5,4").pixels == colours[1:5, 2:7]).all()
    assert "type --region 2,1,10,9" in refused(tmp_path / "a.png", region="2,1,50,40")
    assert "leave out --slice" in refused(tmp_path / "a.png", slice=0)
    Image.fromarray(colours[..., 0]).save(tmp_path / "g.png")
    assert "its one band is 0" in refused(tmp_path / "g.png", channels="2,1,0")


@pytest.mark.parametrize("number", range(1, 9))
def test_a_region_is_of_the_picture_as_seen(tmp_path: Path, number: int) -> None:
    from PIL import Image  # noqa: PLC0415

    values = bytes_of(10, 12, 3).astype(np.uint16) * 257
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, photometric="rgb", extratags=[(274, "H", 1, number, True)])
    whole = load_image(path)
    part = load_image(path, region="1,2,5,6")
    assert (part.pixels == whole.pixels[2:8, 1:6]).all()
    exif = Image.Exif()
    exif[274] = number
    Image.fromarray(bytes_of(10, 12, 3)).save(tmp_path / "a.png", exif=exif)
    seen = load_image(tmp_path / "a.png").pixels
    assert (load_image(tmp_path / "a.png", region="1,2,5,6").pixels == seen[2:8, 1:6]).all()


@pytest.mark.parametrize(
    "layout",
    [
        {"tile": (16, 32), "planarconfig": "separate"},
        {"tile": (32, 16), "planarconfig": "contig", "compression": "zlib", "predictor": True},
        {"rowsperstrip": 7, "planarconfig": "contig"},
        {"rowsperstrip": 7, "planarconfig": "separate", "compression": "lzw"},
        {"planarconfig": "contig"},
    ],
)
@pytest.mark.parametrize("box", [(0, 0, 50, 70), (17, 33, 1, 1), (5, 6, 44, 40), (32, 16, 16, 32)])
def test_a_region_of_a_tiff_equals_that_part_of_it(
    tmp_path: Path, layout: dict[str, Any], box: tuple[int, int, int, int]
) -> None:
    bands = RNG.integers(0, 65536, (70, 50, 5), dtype=np.uint16)
    stored = bands.transpose(2, 0, 1) if layout["planarconfig"] == "separate" else bands
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", **layout)
    x, y, width, height = box
    part = load_image(tmp_path / "a.tif", region=f"{x},{y},{width},{height}", channels="4,0,2")
    whole = load_image(tmp_path / "a.tif", channels="4,0,2")
    assert (part.pixels == whole.pixels[y : y + height, x : x + width]).all()
    assert part.bands is not None
    assert whole.bands is not None
    assert (part.bands == whole.bands[y : y + height, x : x + width]).all()


def test_only_the_tiles_of_a_region_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "huge.tif"
    tifffile.imwrite(path, shape=(14000, 20000, 3), dtype="u1", photometric="rgb", tile=(256, 256))
    monkeypatch.setattr("attnviz.io.picture.read", None)  # the whole file is never read
    picture = load_image(path, region="19000,500,300,200")
    assert picture.pixels.shape == (200, 300, 3)
    with tifffile.TiffFile(path) as file:
        assert len(tiff_regions.segments(file.pages.first, (19000, 500, 300, 200))) == 4
    monkeypatch.undo()
    given = decode(path.read_bytes(), str(path), part=parse_part(region="19000,500,300,200"))
    assert given.pixels.shape == (200, 300, 3)  # as batch reads it
    monkeypatch.setattr("attnviz.io.size_limit.available", lambda: 10**9)
    assert "--region x,y,w,h" in refused(path)
    assert "give a smaller --region" in refused(path, region="0,0,20000,14000")


@pytest.mark.parametrize("colours", ["ycbcr", "rgb"])
def test_a_region_of_a_slide_in_jpeg(tmp_path: Path, colours: str) -> None:
    path, smooth = tmp_path / "slide.tif", np.linspace(0, 255, 96 * 80 * 3).reshape(96, 80, 3)
    tifffile.imwrite(
        path, smooth.astype(np.uint8), photometric=colours, compression="jpeg", tile=(32, 32)
    )
    whole = tifffile.imread(path)
    picture = load_image(path, region="20,30,50,40")
    assert (picture.pixels == whole[30:70, 20:70]).all()


def test_a_slice_of_a_tiff_stack_is_a_page(tmp_path: Path) -> None:
    path, stack = tmp_path / "stack.tif", bytes_of(5, 20, 30)
    tifffile.imwrite(path, stack, photometric="minisblack")
    for number in range(5):
        assert (load_image(path, slice=number).pixels == stack[number][..., None]).all()
    part = load_image(path, slice=3, region="1,2,9,8")
    assert (part.pixels == stack[3, 2:10, 1:10, None]).all()
    assert "its 5 slices are 0 to 4; type --slice 4" in refused(path, slice=5)
    assert "type --slice 4" in refused(path, slice=5, region="1,2,9,8")


@pytest.mark.parametrize(
    "options",
    [
        {"channels": "1,2"},
        {"channels": "a"},
        {"channels": "-1"},
        {"channels": "²"},
        {"slice": -1},
        {"region": "1,2,3"},
        {"region": "0,0,0,5"},
        {"region": "-1,0,5,5"},
    ],
)
def test_wrong_parts_are_wrong_usage(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"type|give"):
        parse_part(**options)


def test_a_damaged_tile_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, bytes_of(64, 64), tile=(16, 16), compression="zlib")
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        start = file.pages.first.dataoffsets[0]
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    assert "damaged" in refused(path, region="0,0,8,8")
    assert load_image(path, region="32,32,8,8").pixels.shape == (8, 8, 3)


def nifti(values: NDArray[Any], affine: NDArray[Any], path: Path) -> None:
    import nibabel  # noqa: PLC0415

    nibabel.Nifti1Image(values, affine).to_filename(str(path))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_slice_of_a_nifti_volume_is_seen_as_radiologists_do(tmp_path: Path, name: str) -> None:
    values = RNG.integers(0, 32768, (12, 14, 9), dtype=np.int16)
    nifti(values, np.eye(4), tmp_path / name)  # x to the right, y to the front, z up
    picture = load_image(tmp_path / name, slice=2, range="0:32767")
    expected = values[::-1, ::-1, 2].T  # front at the top, right at the left
    assert (picture.pixels[..., 0] == np.rint(expected / 32767 * 255)).all()
    assert load_image(tmp_path / name).notes[0].text.startswith("9 slices: slice 4 is drawn")
    assert "type --slice 8" in refused(tmp_path / name, slice=9)


def test_every_orientation_of_a_nifti_volume_is_drawn_alike(tmp_path: Path) -> None:
    import nibabel  # noqa: PLC0415

    values = RNG.integers(0, 32768, (6, 7, 5), dtype=np.int16)
    straight = nibabel.Nifti1Image(values, np.eye(4))
    nifti(values, np.eye(4), tmp_path / "a.nii")
    expected = load_image(tmp_path / "a.nii", slice=1).pixels
    for codes in ("LPS", "RAS", "PIR", "SAL", "ASL", "IRP"):
        wanted = nibabel.orientations.axcodes2ornt(codes)
        turned = straight.as_reoriented(
            nibabel.orientations.ornt_transform(nibabel.io_orientation(np.eye(4)), wanted)
        )
        turned.to_filename(str(tmp_path / "b.nii"))
        assert (load_image(tmp_path / "b.nii", slice=1).pixels == expected).all(), codes


def test_hostile_volumes_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnviz.io.size_limit.available", lambda: 10**9)
    path = tmp_path / "a.nii"
    nifti(np.zeros((8, 8, 8), np.int16), np.eye(4), path)
    data = bytearray(path.read_bytes())
    path.write_bytes(data[:600])
    assert "damaged" in refused(path, slice=7)
    data[42:46] = (32767).to_bytes(2, "little") * 2
    path.write_bytes(data)
    assert "megapixels" in refused(path)
    packed = tmp_path / "a.nii.gz"
    packed.write_bytes(gzip.compress(b"no volume"))
    assert "damaged" in refused(packed)
    packed.write_bytes(b"\x1f\x8b123")
    assert "damaged" in refused(packed)


def dicom(path: Path, values: NDArray[Any], **fields: Any) -> Path:
    from pydicom.dataset import FileDataset, FileMetaDataset  # noqa: PLC0415
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage  # noqa: PLC0415

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    bits = values.dtype.itemsize * 8
    file.BitsAllocated, file.BitsStored, file.HighBit = bits, bits, bits - 1
    file.PixelRepresentation = int(values.dtype.kind == "i")
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.Rows, file.Columns = values.shape[-2:]
    for name, value in fields.items():
        setattr(file, name, value)
    file.PixelData = values.tobytes()
    file.save_as(path)
    return path


def test_dicom_is_rescaled_and_windowed(tmp_path: Path) -> None:
    stored = RNG.integers(0, 4096, (20, 30), dtype=np.uint16)
    path = dicom(
        tmp_path / "ct.dcm",
        stored,
        RescaleSlope="1",
        RescaleIntercept="-1024",
        WindowCenter=["40", "600"],
        WindowWidth=["400", "1600"],
    )
    picture = load_image(path)
    assert picture.range == (-160.0, 239.0)
    expected = np.rint(np.clip((stored - 1024.0 + 160) / 399 * 255, 0, 255))
    assert (picture.pixels == expected[..., None]).all()
    assert load_image(path, range="-1024:3071").range == (-1024.0, 3071.0)


def test_dicom_of_inverted_grey(tmp_path: Path) -> None:
    stored = RNG.integers(0, 4096, (20, 30), dtype=np.uint16)
    fields = {"BitsStored": 12, "HighBit": 11}
    plain = load_image(dicom(tmp_path / "a.dcm", stored, **fields))
    assert plain.range == (0.0, 4095.0)
    assert (plain.pixels == np.rint(stored / 4095 * 255)[..., None]).all()
    fields["PhotometricInterpretation"] = "MONOCHROME1"  # type: ignore[assignment]
    inverted = load_image(dicom(tmp_path / "b.dcm", stored, **fields))
    assert (inverted.pixels == np.rint(255 - stored / 4095 * 255)[..., None]).all()


def test_frames_and_colours_of_dicom(tmp_path: Path) -> None:
    frames = bytes_of(4, 20, 30)
    path = dicom(tmp_path / "a.dcm", frames, NumberOfFrames=4)
    assert (load_image(path, slice=3).pixels == frames[3][..., None]).all()
    assert load_image(path).notes[0].text.startswith("4 slices: slice 2 is drawn")
    colours = bytes_of(20, 30, 3)
    rgb = {"Rows": 20, "Columns": 30, "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    path = dicom(tmp_path / "b.dcm", colours, PhotometricInterpretation="RGB", **rgb)
    assert (load_image(path).pixels == colours).all()


def test_hostile_dicom_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnviz.io.size_limit.available", lambda: 10**9)
    path = dicom(tmp_path / "a.dcm", bytes_of(8, 8), Rows=60000, Columns=60000)
    assert "megapixels" in refused(path)
    path = dicom(tmp_path / "a.dcm", bytes_of(8, 8), Rows=100)
    assert "damaged" in refused(path)
    path.write_bytes(path.read_bytes()[:140])
    refused(path)
    path = dicom(tmp_path / "a.dcm", np.zeros((8, 8), np.uint8), WindowCenter="1", WindowWidth="0")
    assert load_image(path).pixels.shape == (8, 8, 3)


@pytest.mark.parametrize(("module", "name"), [("pydicom", "a.dcm"), ("nibabel", "a.nii")])
def test_a_missing_extra_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    path = dicom(tmp_path / "a.dcm", bytes_of(8, 8))
    nifti(np.zeros((8, 8, 8), np.int16), np.eye(4), tmp_path / "a.nii")
    monkeypatch.setitem(__import__("sys").modules, module, None)
    assert "pip install 'attnviz[" in refused(path.with_name(name))


def test_a_missing_array_file_is_one_line(tmp_path: Path) -> None:
    assert "no such file" in refused(f"{tmp_path}/none.npz:one")
    with pytest.raises(ImageError):
        load_image(f"{tmp_path}/none.npy:CHW", region="0,0,1,1")
