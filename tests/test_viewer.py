"""The page with the moving hands in a real browser, where one is installed (Debian's `chromium`)"""

import asyncio, base64, io, json, re, shutil, subprocess
import numpy as np, pytest, torch
from PIL import Image

from forehand4d.drawing.page import Player, player_page
from forehand4d.geometry.cameras import intrinsics_from_fov, project
from forehand4d.geometry.motion import HandMotion, demo_motion

CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')
pytestmark = pytest.mark.skipif(not CHROMIUM, reason='no Chromium is installed')
SIZE = 900, 600
FLAGS = [
    '--headless=new',
    '--no-sandbox',
    '--no-first-run',
    '--use-gl=angle',
    '--use-angle=swiftshader',
    '--enable-unsafe-swiftshader',
    '--remote-debugging-port=0',
]


class Page:
    "A page in Chromium, over its debugging protocol"

    def __init__(self, folder):
        command = [CHROMIUM, *FLAGS, f'--user-data-dir={folder}', 'about:blank']
        with open(folder / 'log', 'w') as log:
            self.process = subprocess.Popen(command, stderr=log)
        self.folder, self.number, self.events = folder, 0, []

    async def port(self):
        for _ in range(600):
            found = re.search(r'ws://\S+:(\d+)/', (self.folder / 'log').read_text())
            if found:
                return found[1]
            await asyncio.sleep(0.2)
        raise TimeoutError('Chromium did not start')

    async def open(self, path):
        from tornado.httpclient import AsyncHTTPClient
        from tornado.websocket import websocket_connect

        answer = await AsyncHTTPClient().fetch(f'http://127.0.0.1:{await self.port()}/json')
        tab = next(t for t in json.loads(answer.body) if t['type'] == 'page')
        self.socket = await websocket_connect(tab['webSocketDebuggerUrl'], max_message_size=1 << 28)
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            await self.call(f'{domain}.enable')
        width, height = SIZE
        screen = dict(width=width, height=height, deviceScaleFactor=1, mobile=False)
        await self.call('Emulation.setDeviceMetricsOverride', **screen)
        await self.call('Page.navigate', url=f'file://{path}#play=0')
        await self.until('typeof viewer === "object" && !viewer.state.dirty')

    async def call(self, method, **parameters):
        self.number += 1
        asked = dict(id=self.number, method=method, params=parameters)
        await self.socket.write_message(json.dumps(asked))
        while True:
            message = json.loads(await self.socket.read_message())
            if message.get('id') == asked['id']:
                assert 'error' not in message, message
                return message['result']
            self.events.append(message)

    async def js(self, code):
        answer = await self.call('Runtime.evaluate', expression=code, returnByValue=True)
        assert 'exceptionDetails' not in answer, answer
        return answer['result'].get('value')

    async def until(self, code):
        for _ in range(600):
            if await self.js(code):
                return
            await asyncio.sleep(0.1)
        raise TimeoutError(code)

    async def picture(self):
        await self.until('!viewer.state.dirty')
        answer = await self.call('Page.captureScreenshot', format='png')
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer['data']))).convert('RGB'))

    def complaints(self):
        "Exceptions, and what the console calls an error"
        kinds = {'Runtime.exceptionThrown', 'Log.entryAdded', 'Runtime.consoleAPICalled'}
        said = [event for event in self.events if event['method'] in kinds]
        thrown = 'Runtime.exceptionThrown'
        return [e for e in said if e['method'] == thrown or '"error"' in json.dumps(e)]

    def asked_for(self):
        "Addresses of what was loaded"
        sent = [e for e in self.events if e['method'] == 'Network.requestWillBeSent']
        return {e['params']['request']['url'].partition(':')[0] for e in sent}

    def close(self):
        self.process.terminate()
        self.process.wait()


@pytest.fixture(scope='module')
def seen(tmp_path_factory):
    "What a browser makes of a page"
    several = [demo_motion(31, seed) for seed in range(2)]
    names = ('rot', 'wrist', 'betas', 'valid')
    motion = HandMotion(*[torch.stack([getattr(m, n) for m in several]) for n in names])
    image = np.full((300, 450, 3), (120, 160, 120), np.uint8)
    K = intrinsics_from_fov(60.0, 450, 300)
    folder = tmp_path_factory.mktemp('viewer')
    path = folder / 'a.html'
    player = Player(motion, ('one', 'two'), title='Two <hands>', image=image, intrinsics=K)
    path.write_text(player_page(player), encoding='utf-8')
    page = Page(folder)
    found = dict(motion=motion, K=K, page=page)

    async def look():
        await page.open(path)
        found['title'] = await page.js('document.title')
        sizes = '[innerWidth, innerHeight, scene.clientWidth, scene.clientHeight]'
        found['fills'] = await page.js(sizes)
        for t in (0, 15, 30):
            code = f'[0, 1].map((side) => [...viewer.vertices(side, 1, {t / 30})])'
            found[f'vertices {t}'] = np.array(await page.js(code)).reshape(2, 778, 3)
        await asyncio.sleep(1)  # the photograph is decoded
        await page.js('for (const p of document.querySelectorAll(".panel")) p.style.opacity = 0')
        await page.js("ways.click()")
        found['first'] = await page.picture()
        await page.js('viewer.setTime(1)')
        found['last'] = await page.picture()
        await page.js('hand0.click()')
        found['without right'] = await page.picture()
        await page.js('photo.click(); viewer.setFuture(-1)')
        found['all futures'] = await page.picture()
        await page.js('viewer.setTime(0); viewer.setPlaying(true)')
        await page.until('viewer.state.time > 0.1')

    try:
        asyncio.run(look())
    finally:
        page.close()
    return found


def test_hands_are_where_they_are(seen):
    "The browser's vertices are ours to 0.2 mm, at several times"
    vertices = seen['motion'].vertices()[1].numpy()
    for t in (0, 15, 30):
        assert np.abs(seen[f'vertices {t}'] - vertices[t]).max() < 2e-4


def blue(picture):
    "Pixels of the right hand"
    r, g, b = np.moveaxis(picture.astype(int), -1, 0)
    return (b > r + 60) & (b > g + 25)


def test_what_is_seen(seen):
    """One first sees the photograph from its camera, the right hand where it projects to;
    hands and photograph can be hidden"""
    hand = seen['motion'].vertices()[0, 0, 0]
    pixels = project(hand, seen['K']).numpy()
    scale = SIZE[0] / 450 / 1.05  # the photograph fills all but a margin
    expected = (pixels - [224.5, 149.5]) * scale + np.array(SIZE) / 2
    rows, columns = np.nonzero(blue(seen['first']))
    found = np.array([[columns.min(), rows.min()], [columns.max(), rows.max()]])
    assert np.abs(found - [expected.min(0), expected.max(0)]).max() < 4
    assert (seen['first'] != seen['last']).any(-1).mean() > 0.01  # it moves
    assert blue(seen['first']).sum() > 500 and blue(seen['without right']).sum() == 0
    photo = seen['last'][300, 100]
    assert (seen['last'] == photo).all(-1).mean() > 0.5
    assert (seen['all futures'] == photo).all(-1).sum() == 0


def test_the_page_keeps_to_itself(seen):
    assert seen['page'].complaints() == []
    assert seen['page'].asked_for() <= {'file', 'data'}
    assert seen['title'] == 'Two <hands>'
    width, height, across, down = seen['fills']
    assert (width, height) == SIZE == (across, down)
