"""The one decoder: the pixels of stock loaders for ordinary pictures, the numbers that were written for all others."""

import io
import logging
from pathlib import Path

import cv2
import mmpretrain.datasets  # noqa: F401
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import Compose
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import TRANSFORMS
from PIL import Image, PngImagePlugin

from mmpl.datasets import LoadImage, LoadRandomResizedCrop, UnlabelledFolder, decode
from mmpl.datasets.agreement.findings import size_of_image
from mmpl.datasets.decode import Decoder, StockDecoder, decoder_of
from mmpl.datasets.image_check import inspect_image
from mmpl.datasets.transforms.load_crop import jpeg_shape

HIGH = dict(uint8=255, uint16=4000)


def blocks(channels: int = 3, dtype: str = 'uint8', seed: int = 0) -> np.ndarray:
    """48 x 64 pixels in blocks of 8, (48, 64) of one channel."""
    small = np.random.default_rng(seed).integers(0, HIGH[dtype], (6, 8, channels)).astype(dtype)
    values = np.kron(small, np.ones((8, 8, 1), dtype))
    return values[..., 0] if channels == 1 else values


def encoded(image: np.ndarray | Image.Image, image_format: str, **kwargs) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, image_format, **kwargs)
    return buffer.getvalue()


def tiff(values: np.ndarray, planar: bool = False, **kwargs) -> bytes:
    tifffile = pytest.importorskip('tifffile')
    buffer = io.BytesIO()
    if planar:
        values, kwargs = np.moveaxis(values, -1, 0), dict(planarconfig='separate', **kwargs)
    elif values.ndim == 3 and 'photometric' not in kwargs:
        kwargs |= dict(photometric='minisblack', planarconfig='contig')
    tifffile.imwrite(buffer, values, **kwargs)
    return buffer.getvalue()


def opencv(values: np.ndarray, ending: str) -> bytes:
    """Written by OpenCV, whose order is BGR."""
    return cv2.imencode(ending, values[..., [2, 1, 0, 3][: values.shape[2]]] if values.ndim == 3 else values)[
        1
    ].tobytes()


def pages(stack: list[np.ndarray]) -> bytes:
    return cv2.imencodemulti('.tif', stack)[1].tobytes()


def ordinary() -> dict[str, bytes]:
    """Pictures of 8 bits."""
    rgb = Image.fromarray(blocks())
    grey = rgb.convert('L')
    turned = {}
    for orientation in (3, 6, 7):
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned[f'turned{orientation}.jpg'] = encoded(rgb, 'JPEG', exif=exif)
        turned[f'turned{orientation}.png'] = encoded(rgb, 'PNG', exif=exif)
    return turned | {
        'rgb.jpg': encoded(rgb, 'JPEG'),
        'grey.jpg': encoded(grey, 'JPEG'),
        'cmyk.jpg': encoded(rgb.convert('CMYK'), 'JPEG'),
        'rgb.png': encoded(rgb, 'PNG'),
        'grey.png': encoded(grey, 'PNG'),
        'palette.png': encoded(rgb.quantize(16), 'PNG'),
        'bit.png': encoded(grey.convert('1'), 'PNG'),
        'alpha.png': encoded(np.dstack([blocks(), blocks(1, seed=1)]), 'PNG'),
        'grey_alpha.png': encoded(Image.merge('LA', [grey, Image.fromarray(blocks(1, seed=1))]), 'PNG'),
        'rgb.bmp': encoded(rgb, 'BMP'),
        'rgb.webp': encoded(rgb, 'WEBP'),
        'lzw.tif': encoded(rgb, 'TIFF', compression='tiff_lzw'),
        'cmyk.tif': encoded(rgb.convert('CMYK'), 'TIFF'),
        'palette.tif': encoded(rgb.quantize(16), 'TIFF'),
        'group4.tif': encoded(grey.convert('1'), 'TIFF', compression='group4'),
    }


@pytest.mark.parametrize('color_type', ['color', 'grayscale'])
def test_ordinary_pictures_have_the_bits_of_the_stock_loader(tmp_path: Path, color_type: str) -> None:
    for name, content in ordinary().items():
        (tmp_path / name).write_bytes(content)
        ours, stock = (
            Compose(
                [TRANSFORMS.build(dict(type=kind, color_type=color_type)), TRANSFORMS.build(dict(type='PackInputs'))]
            )(dict(img_path=str(tmp_path / name)))
            for kind in ('mmpl.LoadImage', 'LoadImageFromFile')
        )
        assert (ours['inputs'] == stock['inputs']).all(), name
        for field in ('img_shape', 'ori_shape'):
            assert getattr(ours['data_samples'], field) == getattr(stock['data_samples'], field), name


def other_kinds() -> dict[str, tuple[bytes, np.ndarray]]:
    """Files that a stock loader reads wrongly, or not at all, and the numbers in them."""
    grey, rgb, deep, deep_rgb = blocks(1), blocks(), blocks(1, 'uint16'), blocks(3, 'uint16')
    share = (grey / 255).astype(np.float32)
    return {
        'zstd.tif': (encoded(rgb, 'TIFF', compression='zstd'), rgb),
        'lzma.tif': (encoded(rgb, 'TIFF', compression='lzma'), rgb),
        'deep_zstd.tif': (encoded(deep, 'TIFF', compression='zstd'), deep),
        'int16.tif': (tiff(deep.astype(np.int16) - 2000), deep.astype(np.int16) - 2000),
        'uint32.tif': (tiff(deep.astype(np.uint32) * 1_000_000), deep.astype(np.uint32) * 1_000_000),
        'int32.tif': (encoded(deep.astype(np.int32), 'TIFF'), deep.astype(np.int32)),
        'float16.tif': (tiff(share.astype(np.float16)), share.astype(np.float16)),
        'float32.tif': (encoded(share, 'TIFF', compression='tiff_lzw'), share),
        'float64.tif': (tiff(share.astype(np.float64)), share.astype(np.float64)),
        'float32_colour.tif': (
            tiff(rgb.astype(np.float32) / 255, photometric='rgb'),
            rgb.astype(np.float32) / np.float32(255),
        ),
        'deep.png': (opencv(deep_rgb, '.png'), deep_rgb),
        'deep.ppm': (b'P6 # twelve bits\n64 48\n4095\n' + deep_rgb.astype('>u2').tobytes(), deep_rgb),
        'deep_rgb.tif': (opencv(deep_rgb, '.tif'), deep_rgb),
        'deep_planar.tif': (tiff(deep_rgb, planar=True, photometric='rgb'), deep_rgb),
        'white_is_zero.tif': (tiff(deep, photometric='miniswhite'), 65535 - deep),
        'big_endian.tif': (tiff(deep, byteorder='>'), deep),
        'big.tif': (tiff(deep, bigtiff=True), deep),
        'nir.tif': (opencv(blocks(4, 'uint16'), '.tif'), blocks(4, 'uint16')),
        'nir_planar.tif': (tiff(blocks(4, 'uint16'), planar=True), blocks(4, 'uint16')),
        'two_bands.tif': (tiff(blocks(2, 'uint16')), blocks(2, 'uint16')),
        'thirteen_bands.tif': (tiff(blocks(13, 'uint16')), blocks(13, 'uint16')),
        'thirteen_planar.tif': (tiff(blocks(13, 'uint8'), planar=True), blocks(13, 'uint8')),
        'pages.tif': (pages([blocks(1, 'uint16', seed) for seed in range(3)]), blocks(1, 'uint16')),
        'rgba16.png': (opencv(blocks(4, 'uint16'), '.png'), blocks(4, 'uint16')),
    }


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all kinds of files, and two that are none."""
    root = tmp_path_factory.mktemp('kinds')
    for name, content in ordinary().items():
        (root / name).write_bytes(content)
    for name, (content, _) in other_kinds().items():
        (root / name).write_bytes(content)
    content = other_kinds()['deep_zstd.tif'][0]
    (root / 'cut.tif').write_bytes(content[: len(content) // 2])
    content = tiff(blocks(), photometric='rgb')  # its list of pages stands in front of the pixels
    (root / 'cut_later.tif').write_bytes(content[:-500])
    (root / 'text.tif').write_bytes(b'no image')
    return root


def test_the_numbers_are_those_that_were_written() -> None:
    for name, (content, want) in other_kinds().items():
        got = decode.read_values(content, name, decode.facts_of(content, name))
        assert got.dtype == want.dtype and np.array_equal(got, want), name


CROP = dict(scale=16)
LOADERS = {
    'folder, stock': (UnlabelledFolder, dict(type='LoadImageFromFile')),
    'folder, crop': (UnlabelledFolder, dict(type='mmpl.LoadRandomResizedCrop', **CROP)),
    'folder, image': (UnlabelledFolder, dict(type='mmpl.LoadImage', scaling='image', color_type='unchanged')),
    'classes, stock': (CustomDataset, dict(type='LoadImageFromFile')),
    'classes, grey': (CustomDataset, dict(type='LoadImageFromFile', color_type='grayscale')),
    'classes, Pillow': (CustomDataset, dict(type='LoadImageFromFile', imdecode_backend='pillow')),
}


@pytest.mark.parametrize('loader', LOADERS)
def test_what_the_check_passes_can_be_loaded_and_the_rest_not(root: Path, loader: str) -> None:
    kind, step = LOADERS[loader]
    fields = {} if kind is UnlabelledFolder else dict(with_label=False)
    dataset = kind(data_root=str(root), pipeline=[step], **fields)
    decoder = decoder_of(dataset)
    assert isinstance(decoder, StockDecoder if kind is CustomDataset else Decoder)
    for index in range(len(dataset)):
        path = dataset.get_data_info(index)['img_path']
        verdicts = [inspect_image(path, full=full, decoder=decoder).bad for full in (True, False)]
        try:
            loaded = dataset[index]['img'] is not None
        except Exception:
            loaded = False
        if kind is CustomDataset and loaded and 'become' in verdicts[0]:  # it loads, but nothing that is in the file
            continue
        assert [not bad for bad in verdicts] == [loaded, loaded], (Path(path).name, verdicts)


def test_by_default_the_check_is_that_of_our_loader(root: Path) -> None:
    bad = {p.name for p in root.iterdir() if inspect_image(p, full=True).bad}
    assert bad == {
        *('int16.tif', 'uint32.tif', 'int32.tif', 'float16.tif', 'float32.tif', 'float64.tif', 'float32_colour.tif'),
        *('two_bands.tif', 'thirteen_bands.tif', 'thirteen_planar.tif', 'cut.tif', 'cut_later.tif', 'text.tif'),
    }
    assert inspect_image(root / 'cut.tif').bad.startswith('truncated: ')
    assert inspect_image(root / 'cut_later.tif').bad.startswith('truncated: pixels up to byte')
    assert 'holds float32 values (0 to 0.9' in inspect_image(root / 'float32.tif').bad
    assert "mmpl.LoadImage(scaling='percentile'" in inspect_image(root / 'float32.tif').bad
    assert 'has 13 bands: which of them' in inspect_image(root / 'thirteen_bands.tif').bad


def test_kinds_have_their_names(root: Path) -> None:
    notes = {p.name: inspect_image(p).notes for p in root.iterdir()}
    assert notes['deep.png'] == notes['deep_rgb.tif'] == notes['big.tif'] == ('16-bit',)
    assert notes['deep.ppm'] == ('12-bit',) and notes['float32.tif'] == ('float32',)
    assert notes['nir.tif'] == ('16-bit', 'bands') and notes['alpha.png'] == ('alpha',)
    assert notes['thirteen_planar.tif'] == notes['two_bands.tif'][1:] == ('bands',)
    assert notes['pages.tif'] == ('16-bit', 'pages') and notes['rgba16.png'] == ('16-bit', 'alpha')
    assert notes['grey_alpha.png'] == ('greyscale', 'alpha') and notes['cmyk.tif'] == ('cmyk',)


@pytest.mark.parametrize('decoder', [Decoder(), StockDecoder()], ids=['ours', 'stock'])
def test_what_is_lost_is_said(tmp_path: Path, decoder: Decoder | StockDecoder) -> None:
    def verdict(name: str, content: bytes) -> tuple[list[str], str]:
        (tmp_path / name).write_bytes(content)
        found = inspect_image(tmp_path / name, decoder=decoder)
        return [text.partition(':')[0] for text in found.lost], found.bad

    assert verdict('full.png', opencv(blocks(1, 'uint16') * 16, '.png')) == ([], '')
    assert verdict('deep.png', opencv(blocks(1, 'uint16'), '.png')) == (['16-bit'], '')
    assert verdict('nir.tif', opencv(blocks(4, 'uint16'), '.tif')) == (['16-bit', 'bands'], '')
    assert verdict('pages.tif', pages([blocks(1), blocks(1)])) == (['pages'], '')
    lost, bad = verdict('black.png', opencv(blocks(1, 'uint16') % 200, '.png'))
    assert lost == [] and bad.startswith('nearly nothing left: 16-bit: its values, ')
    assert verdict('constant.png', opencv(np.full((9, 9), 7, np.uint16), '.png')) == ([], '')
    (text,) = inspect_image(tmp_path / 'deep.png', decoder=decoder).lost
    assert '10 to 3882 in this file, become 0 to 15 of 255; see mmpl.LoadImage(scaling=' in text


def test_overviews_are_no_pages() -> None:
    tifffile = pytest.importorskip('tifffile')
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:  # as GDAL writes a cloud-optimised file
        file.write(blocks(), photometric='rgb', subfiletype=0)
        file.write(blocks()[::2, ::2], photometric='rgb', subfiletype=1)
    facts = decode.facts_of(buffer.getvalue(), 'a.tif')
    assert facts.pages == (0,) and facts.notes == ()


@pytest.mark.parametrize('decoder', [Decoder(), StockDecoder()], ids=['ours', 'stock'])
def test_floats_that_opencv_writes_as_light(decoder: Decoder | StockDecoder) -> None:
    """OpenCV stores three floats as LogLuv, and shows 0 to 1 of it."""
    values = blocks().astype(np.float32)
    fits, white = (opencv(values / high, '.tif') for high in (255, 1))
    assert decode.facts_of(fits, 'a').notes == ('float32',)
    shown = decoder(fits, 'a')
    assert shown.lost == () and shown.nothing == '' and np.ptp(shown.img) == 255
    shown = decoder(white, 'a')
    assert set(np.unique(shown.img)) == {0, 255} and shown.nothing.startswith('float32: its values, ')
    values[:8] /= 1000
    shown = decoder(opencv(values, '.tif'), 'a')
    assert not shown.nothing and [text.partition(':')[0] for text in shown.lost] == ['float32']
    want = (values - values.min()) * (255 / np.ptp(values))
    got = Decoder.of(scaling='image')(opencv(values, '.tif'), 'a').img[..., ::-1]
    assert abs(got - want).max() < 12, 'the numbers, to the 1/100 that LogLuv keeps, and not what is shown of them'


@pytest.mark.parametrize('decoder', [Decoder(), StockDecoder()], ids=['ours', 'stock'])
def test_a_dead_pixel_hides_no_loss(decoder: Decoder | StockDecoder) -> None:
    deep = np.random.default_rng(0).integers(0, 1000, (64, 64), dtype=np.uint16)
    deep[5, 5] = 65535
    (text,) = decoder(opencv(deep, '.png'), 'a').lost
    assert text.startswith('16-bit: 98 % of its values, ') and ' become 0 to 4 of 255' in text.replace('to 3', 'to 4')
    sparse = np.zeros((64, 64), np.uint16)  # of a microscope: black, and one bright spot
    sparse[5, 5] = 65535
    assert decoder(opencv(sparse, '.png'), 'a')[1:] == ((), '')


def test_the_second_of_two_bands_is_missed() -> None:
    assert StockDecoder()(tiff(blocks(2, 'uint8')), 'a').lost[0].startswith('bands: 2 become 1; see ')


def test_a_scaling_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    sparse = np.zeros((64, 64), np.uint16)
    sparse[5, 5] = 5000
    files = {'percentile': opencv(sparse, '.png'), (5000, 9000): opencv(blocks(1, 'uint16'), '.png')}
    files[(0, 1)] = encoded(np.full((9, 9), 7, np.uint8) + np.arange(9, dtype=np.uint8), 'PNG')
    path = tmp_path / 'a.png'
    for scaling, content in files.items():
        path.write_bytes(content)
        bad = inspect_image(path, decoder=Decoder.of(scaling=scaling)).bad
        assert bad.startswith('nearly nothing left: ') and ' become ' in bad
        for loader in (LoadImage(scaling=scaling), LoadRandomResizedCrop(scale=8, scaling=scaling)):
            with pytest.raises(ValueError, match="a.png': nearly nothing left: (16|8)-bit: its values, "):
                loader(dict(img_path=str(path)))
    path.write_bytes(encoded(np.full((9, 9), 7, np.uint8), 'PNG'))
    assert np.unique(LoadImage(scaling='image')(dict(img_path=str(path)))['img']).tolist() == [0], 'it is constant'


def test_a_scaling_that_is_asked_for_is_not_spoken_of() -> None:
    content = opencv(blocks(1, 'uint16'), '.png')
    silent, by_default = Decoder.of(scaling='uint16')(content, 'a'), Decoder.of()(content, 'a')
    assert np.array_equal(silent.img, by_default.img) and silent.lost == ()
    assert [text.partition(':')[0] for text in by_default.lost] == ['16-bit']


def test_scalings() -> None:
    deep = blocks(1, 'uint16')
    content, exact = opencv(deep, '.png'), deep.astype(np.float64)

    def loaded(content: bytes = content, **fields) -> np.ndarray:
        return Decoder.of(color_type='unchanged', **fields)(content, 'a').img

    assert np.array_equal(loaded(), np.rint(exact / 257))
    low, high = exact.min(), exact.max()
    assert np.array_equal(loaded(scaling='image'), np.rint((exact - low) * (255 / (high - low))))
    low, high = np.percentile(exact, [5, 90])
    want = np.rint(np.clip((exact - low) * (255 / (high - low)), 0, 255))
    assert np.array_equal(loaded(scaling='percentile', percentiles=(5, 90)), want)
    assert np.array_equal(loaded(scaling=(1000, 3000)), np.rint(np.clip((exact - 1000) * 255 / 2000, 0, 255)))
    assert loaded(opencv(np.full((9, 9), 700, np.uint16), '.png'), scaling='image').max() == 0
    heights = np.array([[-100.0, 10.0, np.nan], [50.0, 100.0, np.inf]], np.float32)  # holes are black, as what is below
    assert loaded(encoded(heights, 'TIFF'), scaling=(-100, 100)).tolist() == [[0, 140, 0], [191, 255, 255]]
    assert loaded(encoded(heights, 'TIFF'), scaling='image').tolist() == [[0, 140, 0], [191, 255, 255]]
    picture = encoded(np.array([[10, 20], [30, 40]], np.uint8), 'PNG')  # what is asked for holds for 8 bits too
    assert loaded(picture, scaling='image').tolist() == [[0, 85], [170, 255]]
    assert loaded(picture, scaling=(0, 40)).tolist() == [[64, 128], [191, 255]]


def test_bands_and_pages() -> None:
    nir, thirteen = blocks(4, 'uint16'), blocks(13, 'uint8')
    img = Decoder.of(bands=(4, 1, 2), scaling=(0, 255 * 257))(opencv(nir, '.tif'), 'a').img
    assert np.array_equal(img, np.rint(nir[..., [1, 0, 3]] / 257))  # BGR of red 4, green 1 and blue 2
    content = tiff(thirteen)
    assert np.array_equal(Decoder.of(bands=(13,))(content, 'a').img, thirteen[..., 12])
    assert np.array_equal(Decoder.of(bands=(2, 9))(content, 'a').img, thirteen[..., [1, 8]])
    assert np.array_equal(Decoder.of(color_type='unchanged')(content, 'a').img, thirteen)
    with pytest.raises(ValueError, match=r"'a' has 13 bands, but mmpl.LoadImage\(bands=\(14,\)\) asks for more"):
        Decoder.of(bands=(14,))(content, 'a')
    stack = [blocks(1, 'uint8', seed) for seed in range(3)]
    colour = Decoder.of(pages='channels')(pages(stack), 'a')  # red, green and blue of a fluorescence microscope
    assert colour.lost == () and np.array_equal(colour.img, np.stack(stack[::-1], -1))
    values = blocks(1, 'uint8')  # where zero is white all pages are turned alike
    tifffile, buffer = pytest.importorskip('tifffile'), io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for _ in range(2):
            writer.write(values, photometric='miniswhite', contiguous=False)
    white = Decoder.of(color_type='unchanged', pages='channels')(buffer.getvalue(), 'a').img
    assert np.array_equal(white[..., 0], white[..., 1]) and np.array_equal(white[..., 0], 255 - values)
    with pytest.raises(ValueError, match='has pages of .*: .*takes pages of one size'):
        Decoder.of(pages='channels')(pages([stack[0], stack[1][:16]]), 'a')


def test_a_png_with_a_long_text(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_itxt('comment', 'a' * 1_500_000, zip=True)
    Image.fromarray(blocks()).save(tmp_path / 'a.png', pnginfo=text)
    for full in (False, True):
        assert not inspect_image(str(tmp_path / 'a.png'), full).bad
    assert PngImagePlugin.MAX_TEXT_CHUNK == 2**20


@pytest.mark.parametrize('orientation', [1, 2, 3, 4, 5, 6, 7, 8])
def test_all_loaders_turn_an_image_alike(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    deep = blocks(1, 'uint16') * 16
    files = {
        'a.png': encoded(blocks(), 'PNG', exif=exif),
        'a.webp': encoded(blocks(), 'WEBP', lossless=True, exif=exif),
        'b.png': encoded(deep, 'PNG', exif=exif),
        'b.tif': tiff(deep, extratags=[(274, 'H', 1, orientation, True)]),
        'c.tif': tiff(blocks(5), extratags=[(274, 'H', 1, orientation, True)]),
    }
    exif_turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Pillow's Transpose
    for name, content in files.items():
        upright = {'a': blocks(), 'b': np.rint(deep / 257).astype(np.uint8), 'c': blocks(5)[..., :3]}[name[0]]
        if orientation > 1:
            upright = np.asarray(Image.fromarray(upright).transpose(Image.Transpose(exif_turn[orientation])))
        fields = dict(bands=(1, 2, 3)) if name[0] == 'c' else {}
        path = tmp_path / name
        path.write_bytes(content)
        loaded = LoadImage(**fields)(dict(img_path=str(path)))['img']
        assert np.array_equal(loaded, upright[..., ::-1] if upright.ndim == 3 else np.dstack([upright] * 3)), name
        whole = dict(scale=loaded.shape[:2], crop_ratio_range=(1, 1), aspect_ratio_range=(4 / 3, 4 / 3))
        if orientation > 4:
            whole['aspect_ratio_range'] = (3 / 4, 3 / 4)
        assert np.array_equal(LoadRandomResizedCrop(**whole, **fields)(dict(img_path=str(path)))['img'], loaded), name


def test_an_orientation_in_xmp_alone_turns_nothing(tmp_path: Path) -> None:
    """OpenCV does not know it, Pillow does: crops are drawn for what is decoded, and all formats are read alike."""
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    path = tmp_path / 'a.jpg'
    Image.fromarray(np.zeros((40, 80, 3), np.uint8)).save(path, xmp=xmp.encode())
    with Image.open(path) as image:
        assert image.getexif()[0x0112] == 6
    assert jpeg_shape(path.read_bytes()) == ((40, 80), 1)
    assert size_of_image(str(path)) == LoadImage()(dict(img_path=str(path)))['img_shape'] == (40, 80)
    whole = dict(scale=(40, 80), crop_ratio_range=(1, 1), aspect_ratio_range=(2, 2))
    assert LoadRandomResizedCrop(**whole)(dict(img_path=str(path)))['img'].shape == (40, 80, 3)
    deep = PngImagePlugin.PngInfo()
    deep.add_itxt('XML:com.adobe.xmp', xmp)
    Image.fromarray(np.zeros((40, 80), np.uint16)).save(tmp_path / 'a.png', pnginfo=deep)
    Image.fromarray(np.zeros((40, 80, 3), np.uint8)).save(tmp_path / 'a.webp', xmp=xmp.encode())
    for name in ('a.png', 'a.webp'):
        with Image.open(tmp_path / name) as image:
            assert image.getexif()[0x0112] == 6
        assert LoadImage()(dict(img_path=str(tmp_path / name)))['img_shape'] == (40, 80)


def test_the_size_of_an_image_is_that_of_its_loader(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, content in {
        'a.jpg': encoded(blocks(), 'JPEG', exif=exif),
        'a.png': encoded(blocks(), 'PNG', exif=exif),
        'a.webp': encoded(blocks(), 'WEBP', exif=exif),
        'a.tif': tiff(blocks(), extratags=[(274, 'H', 1, 6, True)]),
    }.items():
        (tmp_path / name).write_bytes(content)
        kinds = ('color', 'unchanged', 'color_ignore_orientation')
        for loader in (LoadImage(), *(LoadImageFromFile(color_type=kind) for kind in kinds)):
            loaded = loader(dict(img_path=str(tmp_path / name)))['img_shape']
            assert size_of_image(str(tmp_path / name), [loader]) == loaded, (name, loader)


def test_other_numbers_of_channels_are_cropped_alike(tmp_path: Path) -> None:
    """Pillow would multiply three bands by the fourth."""
    values = np.full((32, 32, 4), [200, 100, 50, 20], np.uint8)
    (tmp_path / 'a.tif').write_bytes(opencv(values, '.tif'))
    (tmp_path / 'b.tif').write_bytes(tiff(blocks(13)))
    for name, bands in (('a.tif', 4), ('b.tif', 13)):
        steps = [
            dict(type='mmpl.LoadRandomResizedCrop', scale=16, flip_prob=0.5, color_type='unchanged'),
            dict(type='PackInputs'),
        ]
        inputs = Compose([TRANSFORMS.build(step) for step in steps])(dict(img_path=str(tmp_path / name)))['inputs']
        assert inputs.shape == (bands, 16, 16)
        if bands == 4:
            assert inputs.flatten(1).unique(dim=1).flatten().tolist() == [200, 100, 50, 20]
    grey = LoadRandomResizedCrop(scale=16, color_type='grayscale')(dict(img_path=str(tmp_path / 'a.tif')))
    assert grey['img'].shape == (16, 16, 1) and np.unique(grey['img']).tolist() == [124]  # 0.299 R + 0.587 G + 0.114 B
    pipeline = [
        dict(type='mmpl.LoadImage', color_type='unchanged'),
        dict(type='RandomResizedCrop', scale=16, backend='pillow'),
    ]
    with pytest.raises(
        ValueError, match=r"`RandomResizedCrop\(backend='pillow'\)` resizes images of 1 or 3 channels only"
    ):
        UnlabelledFolder(data_root=str(tmp_path), pipeline=pipeline)
    pipeline[1]['backend'] = 'cv2'
    assert UnlabelledFolder(data_root=str(tmp_path), pipeline=pipeline)[1]['img'].shape == (16, 16, 13)


def test_without_tifffile_the_message_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    content = tiff(blocks(13))
    monkeypatch.setitem(__import__('sys').modules, 'tifffile', None)
    with pytest.raises(
        ValueError, match=r"'a' \(TIFF, 8-bit, 13 bands, compression 1\) .*`pip install tifffile imagecodecs`"
    ):
        Decoder.of(color_type='unchanged')(content, 'a')


def test_a_loss_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    monkeypatch.setattr(decode, '_said', set())
    monkeypatch.setattr(decode, 'print_log', lambda text, logger, level: said.append((text, level)))
    for name in 'abc':
        (tmp_path / f'{name}.tif').write_bytes(opencv(blocks(4, 'uint16'), '.tif'))
        LoadImage()(dict(img_path=str(tmp_path / f'{name}.tif')))
    assert [text.split()[8] for text, _ in said] == ['16-bit:', 'bands:']
    assert all('a.tif' in text and level == logging.WARNING for text, level in said)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (dict(color_type='rgb'), r"`color_type` must be one of \['color', 'grayscale', 'unchanged'\], but got 'rgb'"),
        (
            dict(scaling='max'),
            r"`scaling` must be one of .*'\(low, high\)', 'image', 'percentile', 'uint16'.*got 'max'",
        ),
        (dict(scaling=(5, 5)), r'`scaling` must be a pair \(low, high\) with low < high, but got \(5, 5\)'),
        (dict(scaling=[0]), r'`scaling` must be a pair \(low, high\), but got \[0\]'),
        (dict(percentiles=(-1, 99)), r'`percentiles` must be a number in \[0, 100\], but got -1'),
        (dict(bands=(0, 1)), r'`bands` must be an integer in \[1, inf\), but got 0'),
        (dict(bands=3), r'`bands` must be a list of numbers from 1 on, such as \(3, 2, 1\), but got 3'),
        (dict(bands=[1], color_type='grayscale'), r"`color_type` 'grayscale' must be left out with `bands`"),
        (dict(pages='all'), r"`pages` must be one of \['channels', 'first'\], but got 'all'"),
    ],
)
def test_refuses(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoadImage(**fields)
    with pytest.raises(ValueError, match=message):
        LoadRandomResizedCrop(scale=16, **fields)
