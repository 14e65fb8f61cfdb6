"""What a notebook keeps of its outputs: pictures and small tables, the same in every run."""

import base64
import io
import re
import tempfile
from pathlib import Path

from PIL import Image, ImageChops, ImageStat

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / 'nbs'
PICTURE_BYTES = 60_000  # of one stored picture
HTML_BYTES = 20_000  # a table; players and plots for the browser are larger
TEXT_LINES = 60  # of one printed or plain output
INTERACTIVE = '(an interactive view: run this cell to see it)'
KEPT = ('image/png', 'text/html', 'text/markdown', 'text/latex', 'text/plain')

ADDRESS = re.compile(r' at 0x[0-9a-fA-F]+')
TIMESTAMP = re.compile(r'\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?')
TEMPORARY = re.compile(re.escape(tempfile.gettempdir()) + r'(/(tmp|forehand4d-test-)[\w.-]+)+')
NUMBER = re.compile(r'[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?')
ARTIST = re.compile(r'^[\[(]?(<matplotlib|<Axes|Text\(|<mpl_toolkits|<Figure|\(?array\(\[\[?<Axes)')
STYLE = re.compile(r'<style scoped>.*?</style>\n?', re.DOTALL)  # pandas repeats it in each table
RULES = re.compile(r'[-─═=]{4,}|\s+')


def reading_order(path: Path) -> list:
    "Sort key: 2_geometry before 10_models, what is numbered before what is not"
    parts = re.split(r'(\d+)', path.as_posix())
    return [int(part) if part.isdigit() else part for part in parts]


def notebooks(folder: Path = NOTEBOOKS) -> list:
    "All notebooks below a folder in reading order; folders with a dot or underscore hold copies"
    inside = [path.relative_to(folder) for path in folder.rglob('*.ipynb')]
    kept = [path for path in inside if not any(part[0] in '._' for part in path.parts)]
    return [folder / path for path in sorted(kept, key=reading_order)]


def is_numbered(path: Path) -> bool:
    "A numbered notebook explains and tests a module; the others run something"
    return path.stem[0].isdigit()


def join(text: 'str|list') -> str:
    "Notebooks store text whole or as a list of lines"
    return text if isinstance(text, str) else ''.join(text)


def tidy_text(
    text: str,  # anything a cell shows
    folders: dict = None,  # path → what stands for it; the folders of this run
) -> str:
    "Without addresses, moments and paths of this machine"
    for path, name in sorted((folders or {}).items(), key=lambda pair: -len(pair[0])):
        text = text.replace(path, name)
    text = TEMPORARY.sub('…', text).replace('…/outputs', 'outputs')
    text = text.replace(f'{ROOT}/', '').replace(str(ROOT), '.').replace(str(Path.home()), '~')
    return TIMESTAMP.sub('YYYY-MM-DD hh:mm:ss', ADDRESS.sub('', text))


def shorten(text: str) -> str:
    "The first lines of a long text"
    lines = text.splitlines(True)
    if len(lines) <= TEXT_LINES:
        return text
    return ''.join(lines[:TEXT_LINES]) + f'… {len(lines) - TEXT_LINES} more lines\n'


def encode(picture: Image.Image) -> bytes:
    "PNG without any metadata"
    buffer = io.BytesIO()
    picture.save(buffer, 'PNG', optimize=True)
    return buffer.getvalue()


def decode(data: str) -> Image.Image:  # base64 of a picture
    "A stored picture"
    return Image.open(io.BytesIO(base64.b64decode(data))).convert('RGB')


def candidates(picture: Image.Image):
    "The picture as it is, with fewer colours, then smaller and smaller"
    yield picture
    for colours in (256, 128, 64):
        yield picture.quantize(colours)
    for scale in (0.8, 0.65, 0.5, 0.4, 0.3, 0.2):
        size = [max(1, round(side * scale)) for side in picture.size]
        yield picture.resize(size, Image.Resampling.LANCZOS).quantize(96)


def tidy_picture(data: str) -> str:  # base64 of any PNG → base64 of one of at most 60 kB
    "The best version of a picture that is small enough"
    whole = Image.open(io.BytesIO(base64.b64decode(data)))
    picture = Image.new('RGB', whole.size, 'white')
    picture.paste(whole.convert('RGBA'), mask=whole.convert('RGBA').getchannel('A'))
    for version in candidates(picture):
        encoded = encode(version)
        if len(encoded) <= PICTURE_BYTES:
            break
    return base64.b64encode(encoded).decode()


def is_player(html: str) -> bool:
    "Does this HTML need a script, or is it too large to be stored?"
    return len(html) > HTML_BYTES or bool(re.search(r'<(script|video|iframe|audio|canvas)\b', html))


def tidy_data(
    data: dict,  # MIME type → text of an output
    folders: dict = None,  # path → what stands for it
) -> dict:
    "One picture, or the text of a value and its table"
    given = {kind: join(data[kind]) for kind in KEPT if kind in data}
    if 'image/png' in given:
        return {'image/png': tidy_picture(given['image/png'])}
    is_live = any('plotly' in kind or 'widget' in kind for kind in data)
    if is_live or is_player(given.get('text/html', '')):
        return {'text/plain': [INTERACTIVE]}
    if ARTIST.match(given.get('text/plain', '')):
        return {}  # what a drawing function returned; the picture stands beside it
    if 'text/markdown' in given:
        given.pop('text/plain', None)
    if 'text/html' in given:
        given['text/html'] = STYLE.sub('', given['text/html'])
    kept = {kind: shorten(tidy_text(text, folders)) for kind, text in given.items()}
    return {kind: text.splitlines(True) for kind, text in kept.items()}


def tidy_output(
    output: dict,  # of a cell, as Jupyter has it
    folders: dict = None,  # path → what stands for it
) -> dict:  # None where nothing is worth keeping
    "What is stored of an output"
    kind = output['output_type']
    if kind == 'stream':
        text = shorten(tidy_text(join(output['text']), folders))
        if output['name'] == 'stderr' or '\r' in text or not text.strip():
            return None  # progress bars and warnings
        return dict(output_type='stream', name='stdout', text=text.splitlines(True))
    data = tidy_data(output['data'], folders)
    if not data:
        return None
    tidy = dict(output_type=kind, data=data, metadata={})
    return tidy | ({'execution_count': None} if kind == 'execute_result' else {})


def tidy_outputs(
    outputs: list,  # of a cell
    folders: dict = None,  # path → what stands for it
) -> list:
    "The outputs to store; a figure that is both drawn and returned stands once"
    kept = []
    for output in outputs:
        tidy = tidy_output(output, folders)
        if tidy and tidy.get('data') not in [other['data'] for other in kept if 'data' in other]:
            kept.append(tidy)
    return kept


# ---- comparison of what is stored with what came out now


def close(
    stored: str,  # a number as text
    now: str,  # the number that came out now
) -> bool:
    "Integers are equal; floats agree to four significant digits"
    if stored == now:
        return True
    if not re.search(r'[.eE]', stored + now):
        return False
    first, second = float(stored), float(now)
    return abs(first - second) <= 5e-4 * max(abs(first), abs(second)) + 1e-6


def compare_text(
    stored: str,  # text of an output
    now: str,  # text that came out now
) -> str:  # '' where they agree
    "The first difference of two texts; widths of columns and last digits do not count"
    words = [NUMBER.sub('#', RULES.sub(' ', text)).strip() for text in (stored, now)]
    if words[0] != words[1]:
        return f'stored {stored[:200]!r}, now {now[:200]!r}'
    pairs = zip(NUMBER.findall(stored), NUMBER.findall(now), strict=True)
    different = [(old, new) for old, new in pairs if not close(old, new)]
    return f'stored {different[0][0]}, now {different[0][1]}' if different else ''


def compare_pictures(
    stored: str,  # base64 of a PNG
    now: str,  # base64 of the picture that came out now
    limit: float = 6,  # mean absolute difference of a pixel, of 255
) -> str:  # '' where they agree
    "Size and mean absolute difference of two pictures; other fonts move a picture's border"
    old, new = decode(stored), decode(now)
    if any(abs(a - b) > max(4, 0.03 * a) for a, b in zip(old.size, new.size, strict=True)):
        return f'stored picture {old.size}, now {new.size}'
    channels = ImageStat.Stat(ImageChops.difference(old, new.resize(old.size))).mean
    difference = sum(channels) / 3
    return f'picture differs by {difference:.1f} of 255' if difference > limit else ''


def compare_output(
    stored: dict,  # an output as it is stored
    now: dict,  # the tidy output that came out now
) -> str:  # '' where they agree
    "The first difference of two outputs"
    old = stored.get('data', {'text/plain': stored.get('text', '')})
    new = now.get('data', {'text/plain': now.get('text', '')})
    if set(old) != set(new):
        return f'stored {sorted(old)}, now {sorted(new)}'
    for kind in old:
        compare = compare_pictures if kind.startswith('image/') else compare_text
        found = compare(join(old[kind]), join(new[kind]))
        if found:
            return found
    return ''


def compare_outputs(
    stored: list,  # outputs of a cell as they are stored
    now: list,  # tidy outputs that came out now
) -> str:  # '' where they agree
    "The first difference of a cell's outputs"
    if len(stored) != len(now):
        return f'{len(stored)} outputs stored, {len(now)} now'
    found = (compare_output(old, new) for old, new in zip(stored, now, strict=True))
    return next(filter(None, found), '')
